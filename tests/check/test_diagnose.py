"""The diagnosis of a failed verification, and trace: where a port or recorded activations first differ."""

from typing import Any

import numpy as np
import pytest

from jaxlstm.check import trace, verify
from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.diagnosis.locate import differing_units, wrong_gradients
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG, scale=1.5)
CASE = cases.ordinary_case(CONFIG)


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


def test_report_has_the_budget():
    def port(x, state, lengths, *, params):
        other = random_params(CONFIG, seed=9, scale=3.0)
        return WrongPort(CONFIG)(x, state, lengths, params=other)

    report = verify(port, PARAMS, CONFIG, gradients=False, against="oracle", seconds=0.25)
    assert report.diagnosis[0] == (
        "no known fault explains the results; pairs of faults were tried for up to 0.25 s (argument seconds)"
    )


BOTH = LSTMConfig(3, 4, num_layers=2, bidirectional=True)
BOTH_PARAMS = random_params(BOTH)
BOTH_CASE = cases.ordinary_case(BOTH)
GIVEN: dict[str, Any] = {
    **{name: BOTH_CASE.arrays[name] for name in ("inputs", "seq_lengths")},
    "initial_state": BOTH_CASE.initial_state,
}


def activations():
    run = OracleLSTM(BOTH_PARAMS, BOTH).call(BOTH_CASE).run()
    return {
        f"l{layer}{'_reverse' if reverse else ''}": {
            gate: a.copy() for gate, a in direction.steps._asdict().items()
        }
        for layer, runs in enumerate(run.record)
        for reverse, direction in enumerate(runs)
    }


def changed(*changes):
    """Return right activations after changes (layer, gate, index, difference)."""
    found = activations()
    for layer, gate, index, difference in changes:
        found[layer][gate][index] += difference
    return found


LONGEST = int(np.argmax(BOTH_CASE.arrays["seq_lengths"]))


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (activations(), None),
        ({"l1": {"g": activations()["l1"]["g"].astype(np.float32)}}, None),
        (changed(("l1", "o", (2, 0, 1), 1e-6)), (1, "forward", 2, 0, "o", 1)),
        (
            changed(
                ("l1", "c", (3, LONGEST, 2), 0.5),  # in a later layer
                ("l0_reverse", "h", (4, LONGEST, 1), 0.25),
                ("l0_reverse", "f", (7, LONGEST, 3), 0.125),  # earlier, as the reverse direction runs
                ("l0_reverse", "o", (7, LONGEST, 0), 0.125),  # a later gate of the same step
            ),
            (0, "reverse", 7, LONGEST, "f", 3),
        ),
    ],
    ids=["right", "float32", "forward", "order of computation"],
)
def test_activations(found, place):
    divergence = trace(found, BOTH_PARAMS, BOTH, **GIVEN)
    assert (divergence and divergence[:6]) == place
    if divergence and divergence.layer == 0:
        assert divergence.actual - divergence.expected == pytest.approx(0.125)
        assert "layer 0, reverse, at time 7" in str(divergence)
    if divergence and divergence.layer == 1:
        assert trace(found, BOTH_PARAMS, BOTH, **GIVEN, tolerance=1e-5) is None


@pytest.mark.parametrize(
    ("recorded", "inputs", "message"),
    [
        ({"l0": {"i": np.zeros(2)}}, BOTH_CASE.inputs, r"l0 i has shape \(2,\), expected \(12, 5, 4\)"),
        (activations(), None, "inputs must be the inputs of the recorded activations"),
        # A layer or gate that the LSTM does not have would not be compared.
        ({"l7": {}}, BOTH_CASE.inputs, "got 'l7'"),
        ({"l0": {"z": np.zeros(3)}}, BOTH_CASE.inputs, r"got \['z'\]"),
    ],
)
def test_rejects_activations_that_do_not_fit(recorded, inputs, message):
    with pytest.raises(ValueError, match=message):
        trace(recorded, BOTH_PARAMS, BOTH, inputs=inputs)


def without(missing):
    def port(x, state, lengths, *, params):
        outputs, final = WrongPort(BOTH, "order iofg")(x, state, lengths, params=params)
        return outputs, [None if name == missing else a for name, a in zip("hc", final, strict=True)]

    return port


def without_initial_state(x, *, params):
    zeros = np.zeros((4, x.shape[1], 4), x.dtype)
    return WrongPort(BOTH, "order iofg")(x, (zeros, zeros), None, params=params)


@pytest.mark.parametrize(
    ("port", "place", "gate"),
    [
        ("order iofg", (0, "forward", 0), "c"),
        ("c linear", (0, "forward", 0), "h"),
        ("no reverse bias", (0, "reverse", 0), "c"),
        ("never reversed", (0, "reverse", 0), "c"),
        ("flip over padding", (0, "reverse", 0), "c"),
        ("reverse first at the top", (1, "forward", 0), "output"),
        # With two layers nothing is wrong.
        ("one layer for all", None, ""),
        (without("h"), (0, "forward", 0), "c"),
        (without("c"), (0, "forward", 0), "h"),
        (without_initial_state, (0, "forward", 0), "c"),
    ],
)
def test_port(port, place, gate):
    found = trace(WrongPort(BOTH, port) if isinstance(port, str) else port, BOTH_PARAMS, BOTH)
    if place is None:
        assert found is None
        return
    assert found is not None
    assert (found[:3], found.gate) == (place, gate)
    assert abs(found.actual - found.expected) > 1e-4


def test_port_without_lengths():
    right = WrongPort(LSTMConfig(3, 4))

    def port(x, state, *, params):
        outputs, final = right(x, state, None, params=params)
        outputs = outputs.copy()
        outputs[5:, 1, 2] += 0.5
        return outputs, final

    config = LSTMConfig(3, 4)
    found = trace(port, random_params(config), config)
    assert found is not None
    assert found[:6] == (0, "forward", 5, 1, "output", 2)


def test_tolerance_is_relative_above_one():
    expected = np.array([0.5, 100.0, -100.0, 0.0, np.nan])
    assert differing_units(np.add(expected[:4], [5e-10, 5e-8, -5e-8, -5e-10]), expected[:4], None).size == 0
    assert differing_units(expected[:4] + 2e-7, expected[:4], None).tolist() == [0, 1, 2, 3]
    assert differing_units(np.array([1.1, 1.3]), np.ones(2), 0.2).tolist() == [1]
    assert differing_units(expected, expected, None).tolist() == [4]


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float64, 1e-9), (np.float32, 1e-4), (np.float16, 2e-2)])
def test_tolerance_by_dtype(dtype, allowed):
    exact = np.zeros(2)
    assert differing_units(np.array([0.9 * allowed, 1.1 * allowed], dtype), exact, None).tolist() == [1]
