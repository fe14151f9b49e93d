"""The diagnosis of a failed verification: gradients, the time budget of the search, and pairs of faults."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxlstm.check import verify
from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.cases.case import Results
from jaxlstm.check.diagnosis import search
from jaxlstm.check.diagnosis.locate import wrong_gradients
from jaxlstm.check.diagnosis.lstm import FaultedOracle, diagnose_port
from jaxlstm.check.diagnosis.search import Failures
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.subjects.port import Port
from jaxlstm.check.verification import Evidence
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params, run_of
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG, scale=1.5)
CASE = cases.ordinary_case(CONFIG)


def a_run():
    return run_of(lambda x, state, lengths: None, PARAMS, CONFIG, references=("oracle",))[0]


def diagnosis_of(run, *, kind="", id_=""):
    failures = Failures(frozenset({id_}), frozenset({kind}))
    return list(diagnose_port(run, run.subject, failures, 0.0).lines)


def with_gradients(dtype, change=lambda name, a: a):
    truth = OracleLSTM(PARAMS, CONFIG).run(CASE, gradients=True)
    assert truth.gradients is not None
    found = {name: change(name, a).astype(dtype) for name, a in truth.gradients.items()}
    return Evidence(CASE, Results(truth.astype(dtype).outputs, found), truth)


def test_gradients_right_up_to_rounding():
    run = a_run()
    run.evidence["working"] = [with_gradients(np.float32, lambda name, a: a * (1 + 1e-5))]
    assert diagnosis_of(run, kind="gradient") == [
        "the gradients are right to rounding, but less precise than in correct implementations"
    ]


def test_first_evidence_of_a_gradient_fault_counts():
    run = a_run()
    wrong = with_gradients(np.float64, lambda name, a: 0 * a if name == "h_0" else a)
    bare = wrong._replace(results=Results(wrong.results.outputs))
    run.evidence["float64"] = [bare, with_gradients(np.float64), wrong]
    assert diagnosis_of(run, kind="gradient") == ["the gradient of h_0 is zero, as after stop_gradient"]
    run.evidence["float64"], run.evidence["working"] = [bare], [wrong]
    assert diagnosis_of(run, kind="gradient") == ["the gradient of h_0 is zero, as after stop_gradient"]


def test_descriptions_of_wrong_gradients():
    true = OracleLSTM(PARAMS, CONFIG).run(CASE, gradients=True).gradients or {}

    def described(**changed):
        return wrong_gradients({**true, **changed}, true)

    assert described() == []
    assert wrong_gradients({name: a.astype(np.float32) for name, a in true.items()}, true) == []
    assert described(bias_hh_l0=true["bias_hh_l0"] * 0) == [
        "the gradient of bias_hh_l0 is zero, as after stop_gradient"
    ]
    assert described(h_0=true["h_0"] * 2) == ["the gradient of h_0 is 2 times the correct gradient"]
    assert described(inputs=true["inputs"] + np.eye(12, 5)[..., None]) == ["the gradient of inputs is wrong"]
    assert described(c_0=true["c_0"] * np.nan) == ["the gradient of c_0 is not finite"]
    (alike,) = described(**{k: -v for k, v in true.items() if "weight" in k})
    assert "is -1 times" in alike


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
