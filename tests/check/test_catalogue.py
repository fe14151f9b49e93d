"""The catalogue: every fault changes the result, no two are equal, and each config has its own set."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check.cases.inputs import ordinary_case, standard_cases
from jaxlstm.check.reference.faults.catalogue import catalogue
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.layer.config import LSTMConfig
from testing.verification import CONFIGS, random_params

WHOLE = LSTMConfig(4, 5, num_layers=3, bidirectional=True, proj_size=3)
SQUARE = LSTMConfig(5, 5, num_layers=3, bidirectional=True)


def finished(call):
    return call.finished(call.run()).results


def answers(config):
    """Return the oracle's results with each fault, over four cases, as one vector per cause."""
    params = random_params(config, scale=1.5, dtype=np.float64)
    cases = [c for c in standard_cases(config) if c.name in ("ragged", "dense", "one step", "saturating")]
    calls = [OracleLSTM(params, config).call(case) for case in cases]

    def numbers(apply):
        found = [finished(apply(call)) for call in calls]
        return np.concatenate([a.ravel() for f in found for a in f.values()])

    return numbers(lambda call: call), {f.cause: numbers(f.apply) for f in catalogue(config)}


@pytest.mark.parametrize("config", [WHOLE, SQUARE])
def test_every_fault_changes_the_result_differently(config):
    truth, by_cause = answers(config)
    # Causes are unique.
    assert len(by_cause) == len(catalogue(config))
    assert all(type(cause) is str for cause in by_cause)
    seen: dict[bytes, str] = {}
    for cause, found in by_cause.items():
        assert found.shape != truth.shape or not np.array_equal(found, truth), cause
        twin = seen.setdefault(found.tobytes(), cause)
        assert twin == cause


def test_a_config_has_only_the_faults_that_it_can_have():
    groups = [{fault.group for fault in catalogue(config)} for config in (CONFIGS["plain"], WHOLE)]
    of_stacks_and_directions = {"layer", "direction", "flip", "join", "projection"}
    assert groups[1] - groups[0] == of_stacks_and_directions
    assert {"bias", "gate order", "precision", "formula", "length"} <= groups[0] & groups[1]
    without = catalogue(LSTMConfig(3, 4, bias=False))
    assert not any("bias" in fault.cause for fault in without)
    assert any("weight_ih is transposed" in fault.cause for fault in catalogue(SQUARE))
    assert not any("weight_ih is transposed" in fault.cause for fault in catalogue(WHOLE))


@pytest.mark.parametrize(
    ("cause", "kept"), [("h and c are kept in {}", {"h_n", "c_n"}), ("the weights are rounded to {}", set())]
)
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_state_in_half_precision_is_returned_in_it(cause, kept, half):
    config = CONFIGS["plain"]
    (fault,) = (f for f in catalogue(config) if f.cause == cause.format(half))
    call = OracleLSTM(random_params(config), config).call(ordinary_case(config))
    found = finished(fault.apply(call))
    rounded = {n: a.astype(np.dtype(half)).astype(np.float64) for n, a in found.items()}
    assert {n for n, a in found.items() if np.array_equal(a, rounded[n])} & {"h_n", "c_n"} == kept
