"""An LSTM as an ONNX model with one LSTM node per layer, for ONNX Runtime and OpenVINO.

The operator ``LSTM`` of opset 14 defines the layout. Its gates are in the order i, o, f, c (c is torch's
g). W, R and B are stacked by direction, and B holds both biases end to end.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.problems import Problem, Unsupported
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import direction_params

OPSET, IR_VERSION = 14, 8  # old enough for every runtime
Run = Callable[[dict[str, np.ndarray]], Any]
"""Takes the model's inputs by name and returns its outputs by name or position."""


def problem_model(problem: Problem) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return a model of static shape and its inputs; the output is ``y``."""
    inputs = {"x": problem.inputs}
    if problem.lengths is not None:
        inputs["lengths"] = problem.lengths
    time, batch = problem.inputs.shape[:2]
    return onnx_model(problem.params, problem.config, time, batch, ragged="lengths" in inputs), inputs


def state_names(config: LSTMConfig) -> list[str]:
    """Return the names of the state's inputs; the outputs have ``_n`` appended."""
    return [f"{part}{layer}" for layer in range(config.num_layers) for part in "hc"]


def onnx_model(
    params: Mapping[str, np.ndarray],
    config: LSTMConfig,
    time: int | str,
    batch: int,
    *,
    ragged: bool = False,
    stateful: bool = False,
) -> bytes:
    """Build a model with input ``x`` (T, B, I) and output ``y`` (T, B, D*H)."""
    if config.proj_size:
        raise Unsupported("ONNX's LSTM has no projection")
    nodes, constants = [], [numpy_helper.from_array(np.array([0, 0, -1]), "joined")]
    for layer in range(config.num_layers):
        weights = _weights(params, config, layer)
        constants += [numpy_helper.from_array(a, f"{name}{layer}") for name, a in weights.items()]
        nodes += _nodes(config, layer, ragged, stateful)
    D, H = config.num_directions, config.hidden_size
    inputs = [_info("x", time, batch, config.input_size)]
    outputs = [_info("y", time, batch, D * H)]
    if ragged:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [batch]))
    if stateful:
        inputs += [_info(name, D, batch, H) for name in state_names(config)]
        outputs += [_info(f"{name}_n", D, batch, H) for name in state_names(config)]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opset)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def carrying(run: Run, config: LSTMConfig) -> Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]:
    """Wrap a stateful model as ``call(inputs, state) -> (outputs, state)`` for one sequence."""
    names = state_names(config)
    shape = (config.num_directions, 1, config.hidden_size)
    zeros = [np.zeros(shape, np.float32) for _ in names]

    def call(x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        inputs = zip(names, zeros if state is None else state, strict=True)
        y, *state = run({"x": x, **dict(inputs)})
        return y, state

    return call


def _info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _nodes(config: LSTMConfig, layer: int, ragged: bool, stateful: bool) -> list[onnx.NodeProto]:
    """An LSTM node with output (T, D, B, H), and the nodes that turn it into (T, B, D*H)."""
    x = f"x{layer}" if layer else "x"
    y = "y" if layer == config.num_layers - 1 else f"x{layer + 1}"
    inputs = [x, f"W{layer}", f"R{layer}", f"B{layer}", "lengths" if ragged else ""]
    outputs = [f"directions{layer}"]
    if stateful:
        inputs += [f"h{layer}", f"c{layer}"]
        outputs += [f"h{layer}_n", f"c{layer}_n"]
    direction = "bidirectional" if config.bidirectional else "forward"
    return [
        helper.make_node("LSTM", inputs, outputs, hidden_size=config.hidden_size, direction=direction),
        helper.make_node("Transpose", outputs[:1], [f"rows{layer}"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"rows{layer}", "joined"], [y]),
    ]


def _weights(params: Mapping[str, np.ndarray], config: LSTMConfig, layer: int) -> dict[str, np.ndarray]:
    directions = []
    for d in range(config.num_directions):
        torch_order = direction_params(params, config, layer, d)
        directions.append({name: _reorder_gates(np.asarray(a)) for name, a in torch_order.items()})
    return {
        "W": np.stack([w["weight_ih"] for w in directions]),
        "R": np.stack([w["weight_hh"] for w in directions]),
        "B": np.stack([np.concatenate([w["bias_ih"], w["bias_hh"]]) for w in directions]),
    }


def _reorder_gates(rows: np.ndarray) -> np.ndarray:
    i, f, g, o = np.split(rows, 4)
    return np.concatenate([i, o, f, g])
