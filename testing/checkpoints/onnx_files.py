"""Write ONNX files with LSTM nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper


def to_onnx(rows: torch.Tensor) -> np.ndarray:
    """Reorder torch's gates i, f, g, o to ONNX's i, o, f, c."""
    i, f, g, o = rows.detach().chunk(4)
    return torch.cat([i, o, f, g]).numpy()


def stacked(module: torch.nn.LSTM, layer: int) -> dict[str, np.ndarray]:
    suffixes = [f"_l{layer}"] + ([f"_l{layer}_reverse"] if module.bidirectional else [])
    state = module.state_dict()
    made = {
        "W": np.stack([to_onnx(state["weight_ih" + s]) for s in suffixes]),
        "R": np.stack([to_onnx(state["weight_hh" + s]) for s in suffixes]),
    }
    if module.bias:
        made["B"] = np.stack(
            [np.concatenate([to_onnx(state["bias_ih" + s]), to_onnx(state["bias_hh" + s])]) for s in suffixes]
        )
    return made


def write(path: Path, module: torch.nn.LSTM, name: str = "/encoder/lstm/LSTM", **attributes: Any) -> Path:
    """Write one LSTM node per layer, named as torch.onnx.export names them."""
    nodes, initializers = [], []
    for layer in range(module.num_layers):
        parts = stacked(module, layer)
        initializers += [numpy_helper.from_array(a, f"{k}{layer}") for k, a in parts.items()]
        if layer:  # the output (T, D, B, H) becomes (T, B, D * H)
            nodes += [
                helper.make_node("Transpose", [f"y{layer - 1}"], [f"t{layer}"], perm=[0, 2, 1, 3]),
                helper.make_node("Reshape", [f"t{layer}", "shape"], [f"x{layer}"]),
            ]
        suffix = f"_{layer}" if layer else ""
        nodes.append(
            helper.make_node(
                "LSTM",
                [f"x{layer}", *(f"{k}{layer}" for k in parts)],
                [f"y{layer}"],
                name=name and name + suffix,
                hidden_size=module.hidden_size,
                **({"direction": "bidirectional"} if module.bidirectional else {}) | attributes,
            )
        )
    initializers.append(numpy_helper.from_array(np.arange(6.0).reshape(2, 3), "head.weight"))
    return save(path, nodes, initializers)


def save(path: Path, nodes: list[Any], initializers: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", [], [], initializers)
    onnx.save(helper.make_model(graph), path)
    return path
