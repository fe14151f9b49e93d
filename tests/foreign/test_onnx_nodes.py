"""The ONNX standard's test cases for its LSTM operator, except peepholes, which torch does not
support.

ONNX stacks the gates in the order i, o, f, c (c is our g), both biases in one array, and directions
on the first axis. The expected values come from ONNX's NumPy reference. ONNX allows backends a
relative error of 1e-3; we test to float32 rounding. All gates of a case have equal weights, so the
cases test layouts, directions and biases, but not the gate order.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as onnx_cases

from jaxlstm import LSTMConfig, lstm

ROUNDING = 4 * float(np.finfo(np.float32).eps)
DIRECTIONS = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}

NAMES = (
    "test_lstm_defaults",
    "test_lstm_with_initial_bias",
    "test_lstm_batchwise",
    "test_lstm_reverse",
    "test_lstm_bidirectional",
)


@cache
def lstm_cases() -> dict[str, Any]:
    """Return the operator's cases by name. Importing their module registers them."""
    from onnx.backend.test.case.node import lstm  # noqa: F401

    cases = [case for case in onnx_cases._NodeTestCases if case.name.startswith("test_lstm")]
    return {case.name: case for case in cases if not case.name.endswith("peepholes")}


def torch_gate_order(stacked: np.ndarray) -> np.ndarray:
    """Reorder rows i, o, f, g to i, f, g, o."""
    i, o, f, g = np.split(stacked, 4)
    return np.concatenate([i, f, g, o])


def direction_params(inputs: dict[str, np.ndarray], direction: int) -> dict[str, jax.Array]:
    """Return the parameters of one direction; a missing ONNX bias becomes zeros."""
    weight_ih, weight_hh = inputs["W"][direction], inputs["R"][direction]
    biases = inputs["B"][direction] if "B" in inputs else np.zeros(2 * len(weight_ih), np.float32)
    bias_ih, bias_hh = np.split(biases, 2)
    stacked = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    return {name: jnp.asarray(torch_gate_order(rows)) for name, rows in stacked.items()}


def run(inputs: dict[str, np.ndarray], direction: str, layout: int) -> dict[str, jax.Array]:
    """Return ONNX's Y (time, directions, batch, H), Y_h and Y_c (directions, batch, H).

    Layout 1 is batch-first. ONNX's "reverse" runs as the second direction of a bidirectional LSTM; the
    first direction is discarded.
    """
    directions = DIRECTIONS[direction]
    weights = [direction_params(inputs, index) for index in range(len(directions))]
    hidden_size = weights[0]["weight_hh"].shape[1]
    config = LSTMConfig(
        inputs["X"].shape[-1], hidden_size, bidirectional=1 in directions, batch_first=layout == 1
    )
    params = {f"{name}_l0": leaf for name, leaf in weights[0].items()}
    if config.bidirectional:
        params |= {f"{name}_l0_reverse": leaf for name, leaf in weights[-1].items()}
    outputs, (h_n, c_n) = jax.jit(partial(lstm, config=config))(params, jnp.asarray(inputs["X"]))
    by_direction = outputs.reshape(*outputs.shape[:2], config.num_directions, hidden_size)
    if layout == 1:  # (batch, time, directions, H), (batch, directions, H)
        return {"Y": by_direction, "Y_h": h_n.swapaxes(0, 1), "Y_c": c_n.swapaxes(0, 1)}
    time_major = by_direction.swapaxes(1, 2)
    index = jnp.array(directions)
    return {"Y": time_major[:, index], "Y_h": h_n[index], "Y_c": c_n[index]}


def test_no_case_is_missing() -> None:
    # Older releases of onnx have fewer cases.
    assert set(lstm_cases()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_node(name: str) -> None:
    if name not in lstm_cases():
        pytest.skip(f"onnx {onnx.__version__} has no {name}")
    case = lstm_cases()[name]
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    ((input_arrays, expected_arrays),) = case.data_sets
    inputs = dict(zip(node.input, input_arrays, strict=True))
    expected = dict(zip([name for name in node.output if name], expected_arrays, strict=True))

    direction = attributes.get("direction", b"forward").decode()
    actual = run(inputs, direction, attributes.get("layout", 0))
    assert expected
    for output, values in expected.items():
        assert actual[output].shape == values.shape
        np.testing.assert_allclose(actual[output], values, rtol=ROUNDING, atol=ROUNDING)
