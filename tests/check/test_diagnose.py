"""The diagnosis of a failed verification from its evidence: gradients."""

from __future__ import annotations

import numpy as np

from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.cases.case import Results
from jaxlstm.check.diagnosis.locate import wrong_gradients
from jaxlstm.check.diagnosis.lstm import diagnose_port
from jaxlstm.check.diagnosis.search import Failures
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.verification import Evidence
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params, run_of

CONFIG = LSTMConfig(3, 4)
PARAMS = random_params(CONFIG)
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
