"""Configs that cover every feature, checks of a small LSTM, and wrong ports as tests."""

from functools import cache
from typing import Any

import pytest

import jaxlstm
from jaxlstm.check import verify
from jaxlstm.check.cases.inputs import standard_cases
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.report import Report
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from testing.inference import random_params
from testing.wrong_ports import BUGS, NEEDS_PROJECTION, PAIRS

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


DEEP = LSTMConfig(4, 5, num_layers=3, bidirectional=True)
PROJECTED = LSTMConfig(4, 5, num_layers=3, bidirectional=True, proj_size=3)
MUTANTS = [(bug,) for bug in BUGS] + list(PAIRS)
NOT_BY_SEMANTICS = {"padding multiplied", "stale state", "float32 inside", "batch first"}
WHOLE = (
    *((bug,) for bug in sorted(NOT_BY_SEMANTICS)),
    ("order iofg",),
    ("flip over padding",),
    ("padding kept",),
    ("tf32",),
    ("bias off by a thousandth",),
    ("clip at 50",),
    ("rows mixed",),
    ("no bias_ih", "state by direction"),
)


def config_for(bugs):
    return PROJECTED if NEEDS_PROJECTION & set(bugs) else DEEP


@cache
def small_cases(config):
    params = random_params(config, scale=1.5)
    cases = [
        case
        for case in standard_cases(config)
        if case.name in ("ragged", "dense", "one step", "one step from zeros", "large c")
    ]
    return params, [(case, OracleLSTM(params, config).run(case)) for case in cases]
