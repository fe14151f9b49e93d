"""The wrong ports as test cases: single bugs and pairs, and the configs and inputs that show them."""

from __future__ import annotations

from functools import cache

from jaxlstm.check.cases.inputs import standard_cases
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params
from testing.wrong_ports import BUGS, NEEDS_PROJECTION, PAIRS

STRONG = LSTMConfig(4, 5, num_layers=3, bidirectional=True)
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
    return PROJECTED if NEEDS_PROJECTION & set(bugs) else STRONG


@cache
def small_cases(config):
    params = random_params(config, scale=1.5)
    cases = [
        case
        for case in standard_cases(config)
        if case.name in ("ragged", "dense", "one step", "one step from zeros", "large c")
    ]
    return params, [(case, OracleLSTM(params, config).run(case)) for case in cases]
