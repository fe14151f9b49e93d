"""Configs that cover every feature, and checks of a small LSTM."""

from typing import Any

import pytest

import jaxlstm
from jaxlstm.check import verify
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.report.report import Report
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from testing.inference import random_params

CONFIGS = {
    "plain": LSTMConfig(3, 5),
    "no bias": LSTMConfig(4, 3, num_layers=2, bias=False),
    "bidirectional": LSTMConfig(3, 4, num_layers=3, bidirectional=True),
    "projected": LSTMConfig(2, 5, num_layers=2, proj_size=3),
    "everything": LSTMConfig(3, 5, num_layers=3, bidirectional=True, proj_size=2),
    "cell": LSTMCellConfig(4, 3),
}
STRONG = CONFIGS["everything"]


SMALL = LSTMConfig(3, 4, num_layers=2)
SMALL_PARAMS = random_params(SMALL)


def own(x: Any, state: Any, lengths: Any, *, params: Any) -> Any:
    """Run our layer as a port of ``SMALL``."""
    return jaxlstm.lstm(params, x, state, seq_lengths=lengths, config=SMALL)


def check(port: Any, **options: Any) -> Report:
    """Verify a port of ``SMALL`` without gradients."""
    return verify(port, SMALL_PARAMS, SMALL, gradients=False, **options)


def status(report: Report) -> dict[str, str]:
    """Return the status of each item of `report`: "ok", "FAILED" or "untested"."""
    return {item.name: item.status for item in report.items}


needs_torch = pytest.mark.skipif(not torch_lstm.is_available(), reason="torch is not installed")
