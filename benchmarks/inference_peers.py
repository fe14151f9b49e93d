"""Other libraries' LSTMs, their state carried, for ``inference.py``: each is there if it is installed.

A peer is called as ``(inputs (T, 1, I), state)``, NumPy arrays, state None for zeros, and gives outputs and
the next state. All have as many threads as there are cores.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import jaxlstm
from jaxlstm.bench.peers import missing

Call = Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]
THREADS = len(os.sched_getaffinity(0))


def peers(module: torch.nn.LSTM) -> dict[str, Call]:
    """Those that are installed, with the weights of ``module``."""
    makers = {
        "torch": by_torch,
        "torch-compile": lambda module: by_torch(torch.compile(module)),
        "onnxruntime": by_onnxruntime,
        "openvino": by_openvino,
    }
    return {name: make(module) for name, make in makers.items() if not missing(name)}


def by_torch(module: Any) -> Call:
    torch.set_num_threads(THREADS)

    def call(x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        with torch.inference_mode():
            y, state = module(torch.from_numpy(x), state)
        return y.numpy(), state

    return call


def by_onnxruntime(module: torch.nn.LSTM) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(
        onnx_model(module), options, providers=["CPUExecutionProvider"]
    )
    names = states(module)

    def call(x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        given = zeros(module) if state is None else state
        found: Any = session.run(None, {"x": x, **dict(zip(names, given, strict=True))})
        y, *state = found
        return y, state

    return call


def by_openvino(module: torch.nn.LSTM) -> Call:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # tells its makers nothing
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    model = core.read_model(io.BytesIO(onnx_model(module)))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    names = states(module)

    def call(x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        given = zeros(module) if state is None else state
        found = request.infer({"x": x, **dict(zip(names, given, strict=True))}, share_inputs=True)
        return found["y"], [found[f"{name}_n"] for name in names]

    return call


def states(module: torch.nn.LSTM) -> list[str]:
    return [f"{kind}{layer}" for layer in range(module.num_layers) for kind in "hc"]


def zeros(module: torch.nn.LSTM) -> list[np.ndarray]:
    return [np.zeros((1, 1, module.hidden_size), np.float32) for _ in states(module)]


def onnx_model(module: torch.nn.LSTM) -> bytes:
    """Inputs ``x`` (time, 1, I) and each layer's state, ``h0``, ``c0``, ...; outputs ``y``, ``h0_n``, ..."""
    from onnx import TensorProto, helper, numpy_helper

    from jaxlstm.bench.peers.onnx_model import IR_VERSION, OPSET, _weights

    params, config = jaxlstm.from_torch(module)
    arrays = {name: np.asarray(leaf) for name, leaf in params.items()}
    nodes, constants, x = [], [numpy_helper.from_array(np.array([1]), "axis")], "x"
    for layer in range(config.num_layers):
        weights = _weights(arrays, config, layer)
        constants += [numpy_helper.from_array(a, f"{name}{layer}") for name, a in weights.items()]
        given = [x, f"W{layer}", f"R{layer}", f"B{layer}", "", f"h{layer}", f"c{layer}"]
        made = [f"directions{layer}", f"h{layer}_n", f"c{layer}_n"]
        nodes.append(helper.make_node("LSTM", given, made, hidden_size=config.hidden_size))
        x = "y" if layer == config.num_layers - 1 else f"x{layer + 1}"
        nodes.append(helper.make_node("Squeeze", [made[0], "axis"], [x]))

    def info(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    H = config.hidden_size
    inputs = [info("x", "time", 1, config.input_size), *(info(n, 1, 1, H) for n in states(module))]
    outputs = [info("y", "time", 1, H), *(info(f"{n}_n", 1, 1, H) for n in states(module))]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, constants)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opset).SerializeToString()
