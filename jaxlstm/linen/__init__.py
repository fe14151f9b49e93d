"""``torch.nn.LSTM`` and ``LSTMCell`` as Linen modules, and Linen models filled from PyTorch checkpoints.

This module is a facade, as ``jaxlstm`` is. It re-exports the modules of ``jaxlstm.linen.modules`` and, on
first use, the converters for Linen models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxlstm.linen.modules import LSTM as LSTM
from jaxlstm.linen.modules import LSTMCell as LSTMCell

if TYPE_CHECKING:
    from jaxlstm_converters.flax.linen import load_state_dict as load_state_dict
    from jaxlstm_converters.flax.linen import state_dict as state_dict


def __getattr__(name: str) -> Any:
    if name not in ("load_state_dict", "state_dict"):
        raise AttributeError(f"module 'jaxlstm.linen' has no attribute {name!r}")
    value = getattr(importlib.import_module("jaxlstm_converters.flax.linen"), name)
    globals()[name] = value
    return value
