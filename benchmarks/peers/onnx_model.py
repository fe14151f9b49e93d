"""An LSTM as an ONNX model with one LSTM node per layer, for ONNX Runtime and OpenVINO."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.parts import Settings
from benchmarks.problems import Implementation, Problem, Unsupported
from jaxlstm.layer.config import LSTMConfig
from testing.onnx_weights import onnx_weights

OPSET, IR_VERSION = 14, 8  # old enough for every runtime
Run = Callable[[dict[str, np.ndarray]], Any]
"""Takes the model's inputs by name and returns its outputs."""
Load = Callable[..., Run]
"""Takes a model, the number of threads, and a dtype, which is float32 if left out."""


def implementation(load: Load, problem: Problem, settings: Settings) -> Implementation:
    """Run the problem's model, of static shape; it does not train."""
    inputs = {"x": problem.inputs}
    if problem.lengths is not None:
        inputs["lengths"] = problem.lengths
    time, batch = problem.inputs.shape[:2]
    model = onnx_model(problem.params, problem.config, time, batch, ragged="lengths" in inputs)
    run = load(model, settings.threads, problem.dtype)
    return Implementation(lambda: run(inputs)[0])


def step(load: Load, problem: Problem, settings: Settings) -> Callable[[], np.ndarray]:
    """Return a step of a stream, which keeps its state."""
    config = problem.config
    model = onnx_model(problem.params, config, "time", 1, stateful=True)
    run, names = load(model, settings.threads), state_names(config)
    zeros = np.zeros((config.num_directions, 1, config.hidden_size), np.float32)
    inputs = {"x": problem.inputs, **dict.fromkeys(names, zeros)}

    def call() -> np.ndarray:
        y, *state = run(inputs)
        inputs.update(zip(names, state, strict=True))
        return y[0]

    return call


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
        weights = onnx_weights(params, layer)
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
