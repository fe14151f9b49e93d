"""The diagnosis of a failed verification from its evidence: gradients and NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jaxlstm.check.diagnosis.diagnose import diagnose
from jaxlstm.check.reference import cases
from jaxlstm.check.reference.results import Evidence, oracle_results
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params, run_of

CONFIG = LSTMConfig(3, 4)
PARAMS = random_params(CONFIG)
CASE = cases.ordinary_case(CONFIG)


def a_run():
    return run_of(lambda x, state, lengths: None, PARAMS, CONFIG, references=("oracle",))


def diagnosis_of(run, *failed):
    return list(diagnose(run, set(failed), None, 0.0))


def with_gradients(dtype, change=lambda name, a: a):
    truth = oracle_results(PARAMS, CONFIG, CASE, gradients=True)
    assert truth.gradients is not None
    found = {name: change(name, a).astype(dtype) for name, a in truth.gradients.items()}
    return Evidence(CASE, PARAMS, truth.astype(dtype)._replace(gradients=found))


def test_gradients_right_up_to_rounding():
    run = a_run()
    run.evidence["working"] = [with_gradients(np.float32, lambda name, a: a * (1 + 1e-5))]
    assert diagnosis_of(run, "RMS error of gradients") == [
        "the gradients are right to rounding, but less precise than in correct implementations"
    ]


def test_first_evidence_of_a_gradient_fault_counts():
    run = a_run()
    wrong = with_gradients(np.float64, lambda name, a: 0 * a if name == "h_0" else a)
    bare = wrong._replace(results=wrong.results._replace(gradients=None))
    run.evidence["float64"] = [bare, with_gradients(np.float64), wrong]
    assert diagnosis_of(run, "float64 gradients against oracle") == ["the gradient of h_0 is zero"]
    run.evidence["float64"], run.evidence["working"] = [bare], [wrong]
    assert diagnosis_of(run, "float64 gradients against oracle") == ["the gradient of h_0 is zero"]


NAN = cases.nan_case(CONFIG, np.random.default_rng(3))
TRUE = oracle_results(PARAMS, CONFIG, NAN)
LENGTHS = NAN.seq_lengths if NAN.seq_lengths is not None else np.zeros(0)
# NaN follows its end.
SHORTEST = int(np.argsort(-LENGTHS, kind="stable")[-1])
CLEAN = next(row for row in range(5) if row != SHORTEST and np.isfinite(TRUE.outputs[:, row]).all())


def spread_to(*rows):
    outputs = TRUE.outputs.copy()
    outputs[:, rows] = np.nan
    return TRUE._replace(outputs=outputs)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (
            spread_to(SHORTEST),
            [
                "the padding reaches the results: it is multiplied by zero instead of being masked, "
                "and NaN times zero is NaN"
            ],
        ),
        (
            spread_to(SHORTEST, CLEAN),
            [
                f"NaN spreads to rows {sorted([SHORTEST, CLEAN])}, whose inputs are finite: "
                "rows of the batch are mixed"
            ],
        ),
        (
            TRUE._replace(outputs=np.nan_to_num(TRUE.outputs)),
            ["NaN or infinity in the inputs does not reach the results"],
        ),
        (TRUE, []),
    ],
    ids=["padding", "rows", "swallowed", "none"],
)
def test_unexpected_nan(ours, expected):
    run = a_run()
    run.nan = NAN, ours, TRUE
    assert diagnosis_of(run, "NaN mask") == expected


def test_no_nan_diagnosis_without_results():
    assert diagnosis_of(a_run(), "NaN mask") == []


def test_nan_from_another_row():
    run = a_run()
    case = replace(NAN, inputs=np.nan_to_num(NAN.inputs))
    run.nan = case, spread_to(SHORTEST), TRUE
    assert diagnosis_of(run, "NaN mask") == [
        f"NaN spreads to rows {[SHORTEST]}, whose inputs are finite: rows of the batch are mixed"
    ]
