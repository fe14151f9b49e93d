"""The search for causes: its time budget, and when it combines two faults."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxlstm.check import verify
from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.diagnosis import search
from jaxlstm.check.diagnosis.faulted_oracle import FaultedOracle
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.subjects.port import Port
from jaxlstm.check.verification import Evidence
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG, scale=1.5)


class Clock:
    """A clock that advances by one second each time it is read."""

    def __init__(self) -> None:
        self.looks = itertools.count()

    def monotonic(self) -> float:
        return float(next(self.looks))


def explained(answers, *, seconds):
    oracle = OracleLSTM(PARAMS, CONFIG)
    evidence = [
        Evidence(case, answers(case), oracle.run(case))
        for case in cases.standard_cases(CONFIG)
        if case.is_finite
    ]
    return FaultedOracle(oracle, evidence).explain(search.Deadline(seconds))


def unexplained(case):
    """Return unrelated weights."""
    return OracleLSTM(random_params(CONFIG, seed=9, scale=3.0), CONFIG).run(case)


def of_two_faults(case, *bugs):
    return Port.of(WrongPort(CONFIG, *bugs)).run(PARAMS, case, np.float64)


def test_budget_is_checked_before_each_pair(monkeypatch):
    def looks(seconds: float) -> int:
        clock = Clock()
        monkeypatch.setattr(search, "time", clock)
        assert explained(unexplained, seconds=seconds) == []
        return next(clock.looks)

    without = looks(0.0)
    # One check at the start and one for the first pair.
    assert without <= 2
    assert looks(1.0) == without
    assert looks(40.0) == without + 39


@pytest.mark.parametrize(
    ("bugs", "causes"),
    [
        # The second fault has no effect on zeros.
        (("order iofg", "no c_0"), ("i, o, f, g", "c_0")),
        (("order iofg", "no bias_hh"), ("i, o, f, g", "bias_hh")),
    ],
)
def test_kinds_of_pairs(bugs, causes):
    (found,) = explained(lambda case: of_two_faults(case, *bugs), seconds=60.0)
    assert explained(lambda case: of_two_faults(case, *bugs), seconds=0.0) == []
    assert len(found.causes) == 2
    for cause in causes:
        assert cause in " and ".join(found.causes)


def test_report_has_the_budget():
    def port(x, state, lengths, *, params):
        other = random_params(CONFIG, seed=9, scale=3.0)
        return WrongPort(CONFIG)(x, state, lengths, params=other)

    report = verify(port, PARAMS, CONFIG, gradients=False, against="oracle", seconds=0.25)
    assert report.diagnosis[0] == (
        "no known fault explains the results; pairs of faults were tried for up to 0.25 s (argument seconds)"
    )
