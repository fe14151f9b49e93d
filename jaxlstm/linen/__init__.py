"""``torch.nn.LSTM`` and ``LSTMCell`` as Linen modules, and Linen models filled from PyTorch checkpoints.

This module is a facade, as ``jaxlstm`` is. It re-exports the modules of ``jaxlstm.linen.modules`` and, on
first use, the converters for Linen models.
"""

from typing import TYPE_CHECKING

from jaxlstm._shared.imports import lazy_names
from jaxlstm.linen.modules import LSTM as LSTM
from jaxlstm.linen.modules import LSTMCell as LSTMCell

if TYPE_CHECKING:
    from jaxlstm_converters.flax.linen import load_state_dict as load_state_dict
    from jaxlstm_converters.flax.linen import state_dict as state_dict

_, __getattr__, _ = lazy_names(__name__)
