"""What the parts of a port with bugs share."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlstm.config import LSTMConfig

Array = np.ndarray


class Part:
    """A part of a port, with some bugs; none is the right one. ``xp`` is NumPy, or what speaks like it."""

    xp: Any = np

    def __init__(self, config: LSTMConfig, *bugs: str) -> None:
        self.config, self.bugs = config, set(bugs)
        self.kept: dict[Any, Any] = {}  # from call to call, of a port with stale state
        self.__name__ = " and ".join(bugs) or "right"
