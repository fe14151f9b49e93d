"""``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` as Linen modules."""

from __future__ import annotations

from jaxlstm.linen.modules import LSTM as LSTM
from jaxlstm.linen.modules import LSTMCell as LSTMCell
