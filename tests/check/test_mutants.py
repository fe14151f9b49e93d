"""Every wrong port is caught, and nine of ten are named rightly; right ports are never accused."""

from __future__ import annotations

import pytest

from jaxlstm.check import verify
from jaxlstm.config import LSTMConfig
from tests.check.helpers import random_params
from tests.check.wrong_ports import BUGS, NEEDS_PROJECTION, PAIRS, WrongPort

STRONG = LSTMConfig(4, 5, num_layers=3, bidirectional=True)
PROJECTED = LSTMConfig(4, 5, num_layers=3, bidirectional=True, proj_size=3)
MUTANTS = [(bug,) for bug in BUGS] + list(PAIRS)


def report_on(*bugs: str, seconds: float = 10.0):
    config = PROJECTED if NEEDS_PROJECTION & set(bugs) else STRONG
    params = random_params(config, scale=1.5)
    port = WrongPort(config, *bugs)
    return verify(port, params, config, gradients=False, seconds=seconds)


@pytest.mark.parametrize("config", [STRONG, PROJECTED])
def test_the_port_without_bugs_is_right(config):
    report = verify(WrongPort(config), random_params(config, scale=1.5), config, gradients=False)
    assert report.ok, str(report)
    assert report.diagnosis == ()


@pytest.mark.parametrize("bugs", MUTANTS, ids=" and ".join)
def test_is_caught_and_named(bugs):
    report = report_on(*bugs, seconds=20.0 if len(bugs) > 1 else 0.0)
    assert not report.ok
    causes = [BUGS[bug] for bug in bugs]
    told = "\n".join(report.diagnosis)
    for cause in causes:
        assert cause is None or cause in told, told
