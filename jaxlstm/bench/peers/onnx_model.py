"""An LSTM as an ONNX model: one LSTM node a layer, made with the ``onnx`` package alone.

Source of the layout: the operator ``LSTM`` of opset 14. Its gates are in the order i, o, f, c, where c is
torch's g; W, R and B are stacked by direction, and B is both biases one after the other.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxlstm.bench.side import Unsupported
from jaxlstm.bench.sizes import Problem
from jaxlstm.config import LSTMConfig
from jaxlstm.params import direction_params

OPSET, IR_VERSION = 14, 8  # those that every runtime of the last years reads


def onnx_model(problem: Problem) -> bytes:
    """The model: inputs ``x`` (T, B, I), ``lengths`` int32 (B,) if ragged; output ``y`` (T, B, D*H).

    Raises:
      Unsupported: there is a projection, which the operator does not have.
    """
    config = problem.config
    if config.proj_size:
        raise Unsupported("ONNX's LSTM has no projection")
    nodes, constants = [], [numpy_helper.from_array(np.array([0, 0, -1]), "joined")]
    for layer in range(config.num_layers):
        weights = _weights(problem.params, config, layer)
        constants += [numpy_helper.from_array(a, f"{name}{layer}") for name, a in weights.items()]
        last = layer == config.num_layers - 1
        nodes += _nodes(problem, layer, list(weights), "y" if last else f"x{layer + 1}")
    shape = problem.inputs.shape
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if problem.lengths is not None:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, shape[1:2]))
    output = (*shape[:2], config.output_size)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, constants)
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _nodes(problem: Problem, layer: int, weights: list[str], output: str) -> list[onnx.NodeProto]:
    """The LSTM node, whose output (T, D, B, H), and what makes (T, B, D*H) of it."""
    config = problem.config
    by_direction, by_row = f"directions{layer}", f"rows{layer}"
    given = [f"x{layer}" if layer else "x", *(f"{name}{layer}" for name in weights)]
    lstm = helper.make_node(
        "LSTM",
        given if problem.lengths is None else [*given, *[""] * (4 - len(given)), "lengths"],
        [by_direction],
        hidden_size=config.hidden_size,
        direction="bidirectional" if config.bidirectional else "forward",
    )
    return [
        lstm,
        helper.make_node("Transpose", [by_direction], [by_row], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [by_row, "joined"], [output]),
    ]


def _weights(
    params: dict[str, np.ndarray], config: LSTMConfig, layer: int
) -> dict[str, np.ndarray]:
    directions = [
        {name: _in_onnx_order(a) for name, a in direction_params(params, config, layer, d).items()}
        for d in range(config.num_directions)
    ]
    found = {
        "W": np.stack([w["weight_ih"] for w in directions]),
        "R": np.stack([w["weight_hh"] for w in directions]),
    }
    if config.bias:
        found["B"] = np.stack([np.concatenate([w["bias_ih"], w["bias_hh"]]) for w in directions])
    return found


def _in_onnx_order(rows: np.ndarray) -> np.ndarray:
    i, f, g, o = np.split(rows, 4)
    return np.concatenate([i, o, f, g])
