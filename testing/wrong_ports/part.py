"""The base class of the parts of a port."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


class Part:
    """A part of a port with some bugs, or none. ``xp`` is NumPy or a compatible module."""

    xp: Any = np

    def __init__(self, config: LSTMConfig, *bugs: str) -> None:
        self.config, self.bugs = config, set(bugs)
        # Kept between calls by a port with stale state.
        self.kept: dict[Any, Any] = {}
        self.__name__ = " and ".join(bugs) or "right"
