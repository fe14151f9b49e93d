"""The references of a verification."""

from __future__ import annotations

from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.torch_model import TorchModel

Reference = OracleLSTM | TorchModel
"""A right implementation of a subject: the oracle, torch's LSTM (a subclass), or a torch module.

Each has the methods of :class:`OracleLSTM`. ``dtype`` is the dtype of its parameters, None if it runs in any;
``chaotic`` is the amplification of one ulp above which RMS errors are a matter of chance.
"""
