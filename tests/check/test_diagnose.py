"""What is said of a verification that failed, from its evidence alone: gradients and NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jaxlstm.check import answer, inputs
from jaxlstm.check.diagnose import diagnose
from jaxlstm.check.explain import Evidence
from jaxlstm.config import LSTMConfig
from tests.check.helpers import random_params, run_of

CONFIG = LSTMConfig(3, 4)
PARAMS = random_params(CONFIG)
CASE = inputs.ordinary_case(CONFIG)


def a_run():
    return run_of(lambda x, state, lengths: None, PARAMS, CONFIG, references=("oracle",))


def told(run, *failed):
    return list(diagnose(run, set(failed), 0.0))


def with_gradients(dtype, change=lambda name, a: a):
    truth = answer.of_oracle(PARAMS, CONFIG, CASE, gradients=True)
    assert truth.gradients is not None
    found = {name: change(name, a).astype(dtype) for name, a in truth.gradients.items()}
    return Evidence(CASE, PARAMS, truth.astype(dtype)._replace(gradients=found))


def test_gradients_that_are_right_to_rounding():
    run = a_run()
    run.evidence["working"] = [with_gradients(np.float32, lambda name, a: a * (1 + 1e-5))]
    assert told(run, "RMS error of gradients") == [
        "the gradients are right to rounding, and less precise than they should be"
    ]


def test_the_first_evidence_that_shows_a_fault_of_the_gradients_tells_it():
    run = a_run()
    wrong = with_gradients(np.float64, lambda name, a: 0 * a if name == "h_0" else a)
    bare = wrong._replace(answer=wrong.answer._replace(gradients=None))
    run.evidence["float64"] = [bare, with_gradients(np.float64), wrong]
    assert told(run, "float64 gradients against oracle") == ["the gradient of h_0 is zero"]
    run.evidence["float64"], run.evidence["working"] = [bare], [wrong]
    assert told(run, "float64 gradients against oracle") == ["the gradient of h_0 is zero"]


NAN = inputs.nan_case(CONFIG, np.random.default_rng(3))
TRUE = answer.of_oracle(PARAMS, CONFIG, NAN)
LENGTHS = NAN.seq_lengths if NAN.seq_lengths is not None else np.zeros(0)
SHORTEST = int(np.argsort(-LENGTHS, kind="stable")[-1])  # NaN stands behind its end
CLEAN = next(row for row in range(5) if row != SHORTEST and np.isfinite(TRUE.outputs[:, row]).all())


def spread_to(*rows):
    outputs = TRUE.outputs.copy()
    outputs[:, rows] = np.nan
    return TRUE._replace(outputs=outputs)


@pytest.mark.parametrize(
    ("ours", "wanted"),
    [
        (
            spread_to(SHORTEST),
            [
                "what stands behind a sequence's end reaches the results: it is multiplied by zero, "
                "not left out"
            ],
        ),
        (
            spread_to(SHORTEST, CLEAN),
            [
                f"rows {sorted([SHORTEST, CLEAN])} are clean and become NaN: "
                "rows of a batch are mixed"
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
def test_where_nan_should_not_be(ours, wanted):
    run = a_run()
    run.nan = NAN, ours, TRUE
    assert told(run, "NaN mask") == wanted


def test_nothing_is_said_of_nan_where_its_case_was_not_answered():
    assert told(a_run(), "NaN mask") == []


def test_a_row_without_nan_behind_its_end_has_it_from_another():
    run = a_run()
    case = replace(NAN, inputs=np.nan_to_num(NAN.inputs))
    run.nan = case, spread_to(SHORTEST), TRUE
    assert told(run, "NaN mask") == [
        f"rows {[SHORTEST]} are clean and become NaN: rows of a batch are mixed"
    ]
