"""trace: where a port or recorded activations first differ, and the gates recovered from single steps."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check import trace
from jaxlstm.check.cases import lstm as cases
from jaxlstm.check.cases.results import Results
from jaxlstm.check.diagnosis.locate import gates_of_one_step, locate_difference
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.difference import differing_units
from jaxlstm.check.subjects.port import Port, PortSubject
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4, num_layers=2, bidirectional=True)
PARAMS = random_params(CONFIG)
CASE = cases.ordinary_case(CONFIG)


def activations():
    run = OracleLSTM(PARAMS, CONFIG).call(CASE).run()
    return {
        f"l{layer}{'_reverse' if reverse else ''}": {
            gate: a.copy() for gate, a in direction.steps._asdict().items()
        }
        for layer, runs in enumerate(run.record)
        for reverse, direction in enumerate(runs)
    }


def traced(found, **kwargs):
    return trace(
        found,
        PARAMS,
        CONFIG,
        inputs=CASE.inputs,
        initial_state=CASE.initial_state,
        seq_lengths=CASE.seq_lengths,
        **kwargs,
    )


def test_right_activations():
    assert traced(activations()) is None
    assert traced({"l1": {"g": activations()["l1"]["g"].astype(np.float32)}}) is None


def test_first_in_the_order_of_computation():
    found = activations()
    assert CASE.seq_lengths is not None
    row = int(np.argmax(CASE.seq_lengths))
    # In a later layer.
    found["l1"]["c"][3, row, 2] += 0.5
    found["l0_reverse"]["h"][4, row, 1] += 0.25
    # Earlier, as the reverse direction runs.
    found["l0_reverse"]["f"][7, row, 3] += 0.125
    # A later gate of the same step.
    found["l0_reverse"]["o"][7, row, 0] += 0.125
    divergence = traced(found)
    assert divergence is not None
    assert divergence[:6] == (0, "reverse", 7, row, "f", 3)
    assert divergence.actual - divergence.expected == pytest.approx(0.125)
    assert "layer 0, reverse, at time 7" in str(divergence)


def test_forward_direction_and_tolerance():
    found = activations()
    found["l1"]["o"][2, 0, 1] += 1e-6
    divergence = traced(found)
    assert divergence is not None
    assert divergence[:6] == (1, "forward", 2, 0, "o", 1)
    assert traced(found, tolerance=1e-5) is None


def test_rejects_activations_that_do_not_fit():
    with pytest.raises(ValueError, match=r"l0 i has shape \(2,\), expected \(12, 5, 4\)"):
        traced({"l0": {"i": np.zeros(2)}})
    with pytest.raises(ValueError, match="inputs must be the inputs of the recorded activations"):
        trace(activations(), PARAMS, CONFIG)


@pytest.mark.parametrize(
    ("bug", "place", "gate"),
    [
        ("order iofg", (0, "forward", 0), "f"),
        ("order igfo", (0, "forward", 0), "f"),
        ("g sigmoid", (0, "forward", 0), "i*g"),
        ("no output gate", (0, "forward", 0), "o"),
        ("no reverse bias", (0, "reverse", 0), "f"),
        ("never reversed", (0, "reverse", 0), "c"),
        # More than one step differs, so no gate is named.
        ("flip over padding", (0, "reverse", 0), "c"),
        ("output of first layer", (1, "forward", 0), "output"),
        ("one layer for all", None, ""),
    ],
)
def test_port(bug, place, gate):
    found = trace(WrongPort(CONFIG, bug), PARAMS, CONFIG)
    # With two layers nothing is wrong.
    if place is None:
        assert found is None
        return
    assert found is not None
    assert (found[:3], found.gate) == (place, gate)
    assert abs(found.actual - found.expected) > 1e-4


def test_gates_of_layer_and_direction():
    def port(x, state, lengths, *, params):
        faulty = params | {"bias_ih_l0_reverse": 0 * params["bias_ih_l0_reverse"]}
        return WrongPort(CONFIG)(x, state, lengths, params=faulty)

    found = locate_difference(PortSubject(Port.of(port), PARAMS, CONFIG, None), CASE, np.float64)
    assert found is not None
    place = found.place
    assert place[:3] == (0, "reverse", 0)
    assert place.gate == "f"
    assert list(found.gates) == ["f", "i*g", "o", "c", "h"]
    first = OracleLSTM(PARAMS, CONFIG).call(CASE.with_arrays(seq_lengths=np.ones(5, int))).run()
    steps = first.record[0][1].steps
    for gate, true in {**steps._asdict(), "i*g": steps.i * steps.g}.items():
        if gate in found.gates:
            np.testing.assert_allclose(found.gates[gate][1], true[0, place.row], atol=1e-12)


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


def without_h_n(x, state, lengths, *, params):
    outputs, (_, c_n) = WrongPort(CONFIG, "order iofg")(x, state, lengths, params=params)
    return outputs, (None, c_n)


def without_c_n(x, state, lengths, *, params):
    outputs, (h_n, _) = WrongPort(CONFIG, "order iofg")(x, state, lengths, params=params)
    return outputs, (h_n, None)


def without_initial_state(x, *, params):
    zeros = np.zeros((4, x.shape[1], 4), x.dtype)
    return WrongPort(CONFIG, "order iofg")(x, (zeros, zeros), None, params=params)


@pytest.mark.parametrize(
    ("port", "gate"), [(without_h_n, "f"), (without_c_n, "h"), (without_initial_state, "c")]
)
def test_port_without_some_states(port, gate):
    found = trace(port, PARAMS, CONFIG)
    assert found is not None
    assert (found[:3], found.gate) == ((0, "forward", 0), gate)


@pytest.mark.parametrize("recorded", [{"l7": {}}, {"l0": {"z": np.zeros(3)}}])
def test_unknown_names_are_errors(recorded) -> None:
    """A layer or gate that the LSTM does not have would not be compared."""
    with pytest.raises(ValueError, match=r"got .*(l7|z)"):
        trace(recorded, PARAMS, CONFIG, inputs=CASE.inputs)


PROJECTED = LSTMConfig(3, 4, num_layers=2, bidirectional=True, proj_size=2)


def one_step(config, slot, change=lambda results, case: results):
    """Return the recovered gates, and the oracle's recorded gates of a step from c_0 = 1."""
    params = random_params(config, dtype=np.float64)
    case = cases.ordinary_case(config)
    case = case.with_arrays(inputs=case.inputs[:1]).without("seq_lengths")

    def run(step):
        return change(OracleLSTM(params, config).run(step), step)

    case.arrays["c_0"][slot] = 1.0
    layer, direction = divmod(slot, 2)
    recorded = OracleLSTM(params, config).call(case).run().record[layer][direction].steps
    return gates_of_one_step(run, config, case, slot, None), recorded


@pytest.mark.parametrize("slot", range(4))
def test_gates_of_a_step(slot):
    measured, recorded = one_step(CONFIG, slot)
    assert list(measured) == ["f", "i*g", "o"]
    np.testing.assert_allclose(measured["f"], recorded.f[0], atol=1e-15)
    np.testing.assert_allclose(measured["i*g"], recorded.i[0] * recorded.g[0], atol=1e-15)
    np.testing.assert_allclose(measured["o"], recorded.o[0], rtol=1e-13)


def test_a_projection_hides_o():
    measured, recorded = one_step(PROJECTED, 3)
    assert list(measured) == ["f", "i*g"]
    np.testing.assert_allclose(measured["f"], recorded.f[0], atol=1e-15)


@pytest.mark.parametrize(("off", "gates"), [(1e-10, ["f", "i*g", "o"]), (1e-6, [])])
def test_no_gates_if_the_step_is_not_linear_in_c(off, gates):
    def add_quadratic_term(results, case):
        return results.with_outputs(c_n=results.outputs["c_n"] + off * np.square(case.arrays["c_0"]))

    assert list(one_step(CONFIG, 1, add_quadratic_term)[0]) == gates


def test_missing_states():
    assert one_step(CONFIG, 0, lambda results, case: Results({"h_n": results.outputs["h_n"]}))[0] == {}
    measured, _ = one_step(CONFIG, 0, lambda results, case: Results({"c_n": results.outputs["c_n"]}))
    assert list(measured) == ["f", "i*g"]


def test_gates_have_the_ports_dtype():
    def in_half_precision(results, case):
        return results.astype(np.float16)

    measured, recorded = one_step(CONFIG, 2, in_half_precision)
    assert {gate.dtype.name for gate in measured.values()} == {"float16"}
    np.testing.assert_allclose(measured["o"], recorded.o[0], rtol=5e-3)


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
