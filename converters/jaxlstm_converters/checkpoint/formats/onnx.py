"""ONNX models: initializers by name, and LSTM nodes under torch's names and in torch's gate order.

ONNX stacks the gates as i, o, f, c and the directions on the first axis: W (D, 4H, in),
R (D, 4H, H) and B (D, 8H), which is both biases one after the other. torch's order is i, f, g, o,
and g is ONNX's c: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, shown
from ..io.source import Source
from ..io.storage import Budget
from ..io.tensor import StackedTensor, Tensor, make_tensor
from ..pickle._name_tensors import Named
from .onnx_graph import LSTMNode, Model, read_model

GATES = (0, 2, 3, 1)  # torch's i, f, g, o among ONNX's i, o, f, c
MAX_NODES = 1_000
NODE = re.compile(r"(node_)?lstm(_\d+)?", re.IGNORECASE)  # as exporters number them


def is_onnx(head: bytes) -> bool:
    """Whether a file that starts so can be a ModelProto: ir_version, then a known field."""
    return len(head) > 3 and head[0] == 8 and head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32:B"


def read_onnx(source: Source, budget: Budget) -> Checkpoint:
    """Every initializer; those of an LSTM node become `PREFIXweight_ih_l0` and so on.

    The prefix is the scope of the node: "/decoder/rnn/LSTM" gives "decoder.rnn.". Nodes of one
    scope that feed each other's sizes are the layers of one LSTM.
    """
    named = Named()
    model = read_model(source, budget, named.warnings)
    for layer in _layers(model, named):
        for name, tensor in _torch_tensors(model, layer):
            _add(named, name, tensor)
    for name, tensor in model.tensors.items():
        if name in model.initializers and name not in model.used:
            _add(named, name, tensor)
    return Checkpoint(source.path, "ONNX", named)


@dataclass(frozen=True, slots=True)
class _Layer:
    prefix: str
    index: int
    node: LSTMNode
    weights: tuple[Tensor, Tensor, Tensor | None]  # W, R, B


def _layers(model: Model, named: Named) -> list[_Layer]:
    """Each LSTM node with weights of its own, and which layer of which LSTM it is."""
    if len(model.lstm_nodes) > MAX_NODES:
        raise CheckpointError(
            "onnx-unsupported",
            f"{len(model.lstm_nodes)} LSTM nodes are more than any model has",
        )
    layers: list[_Layer] = []
    seen: set[tuple[str, ...]] = set()
    prefixes: set[str] = set()
    for number, node in enumerate(model.lstm_nodes):
        weights = _weights(model, node, named)
        if weights is None or node.weights in seen:  # a second call of the same LSTM
            continue
        seen.add(node.weights)
        scope = _scope(node, number)
        last = layers[-1] if layers else None
        if last is not None and _scope(last.node, number) == scope and _feeds(last, weights):
            layers.append(_Layer(last.prefix, last.index + 1, node, weights))
            continue
        prefix = f"{scope}." if scope else ""
        while prefix in prefixes:
            prefix = f"{scope or 'lstm'}_{number}."
            number += 1
        prefixes.add(prefix)
        layers.append(_Layer(prefix, 0, node, weights))
        if node.batch_first:
            named.hints[prefix] = {"batch_first": True, "dropout": 0.0}
    return layers


def _weights(
    model: Model, node: LSTMNode, named: Named
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """W, R, B, their shapes checked; None if the model computes them as it runs."""
    if "" in node.weights[:2]:
        raise CheckpointError(
            "onnx-malformed", f"LSTM node {shown(node.name)!r} has no W or no R among its inputs"
        )
    missing = [name for name in node.weights if name and name not in model.tensors]
    if missing:
        named.warnings.append(
            f"LSTM node {shown(node.name)!r} computes {shown(missing[0])!r} as it runs; "
            "what it is computed from is listed as it is"
        )
        return None
    node.refuse_foreign()
    w, r = (model.tensors[name] for name in node.weights[:2])
    b = model.tensors[node.weights[2]] if node.weights[2] else None
    directions = 2 if node.bidirectional else 1
    hidden = r.shape[-1] if r.ndim == 3 else 0
    good = w.ndim == 3 and (w.shape[:2], r.shape[:2]) == ((directions, 4 * hidden),) * 2
    if not good or hidden == 0 or (b is not None and b.shape != (directions, 8 * hidden)):
        raise CheckpointError(
            "onnx-unsupported",
            f"LSTM node {shown(node.name)!r} has W {w.shape}, R {r.shape} and "
            f"B {None if b is None else b.shape} for {directions} directions",
        )
    model.used.update(node.weights)
    return w, r, b


def _scope(node: LSTMNode, number: int) -> str:
    """The module path of a node, dotted."""
    parts = [part for part in node.name.split("/") if part]
    if parts and NODE.fullmatch(parts[-1]):
        parts.pop()
    elif not parts:
        parts = [f"lstm_{number}"]
    return ".".join(parts)


def _feeds(last: _Layer, weights: tuple[Tensor, Tensor, Tensor | None]) -> bool:
    """Whether the layer could be the one below: its output has the size of the input."""
    w, r, b = last.weights
    return (
        weights[0].shape[2] == w.shape[0] * r.shape[2]
        and weights[1].shape == r.shape
        and (weights[2] is None) == (b is None)
    )


def _torch_tensors(model: Model, layer: _Layer) -> list[tuple[str, Tensor]]:
    w, r, b = layer.weights
    hidden = r.shape[2]
    found = []
    for direction in range(w.shape[0]):
        suffix = f"_l{layer.index}" + ("_reverse" if direction else "")
        columns = w.shape[2]
        found += [
            (f"weight_ih{suffix}", _gates(model, w, direction * 4 * hidden, hidden, columns)),
            (f"weight_hh{suffix}", _gates(model, r, direction * 4 * hidden, hidden, hidden)),
        ]
        if b is not None:
            start = direction * 8 * hidden
            found += [
                (f"bias_ih{suffix}", _gates(model, b, start, hidden, None)),
                (f"bias_hh{suffix}", _gates(model, b, start + 4 * hidden, hidden, None)),
            ]
    return [(layer.prefix + name, tensor) for name, tensor in found]


def _gates(model: Model, whole: Tensor, row: int, hidden: int, columns: int | None) -> Tensor:
    """Four blocks of `hidden` rows from `row` on, in torch's order."""
    width = 1 if columns is None else columns
    shape = (hidden,) if columns is None else (hidden, columns)
    blocks = [
        make_tensor(
            whole.storage,
            whole.dtype,
            shape,
            budget=model.budget,
            offset=(row + gate * hidden) * width,
        )
        for gate in GATES
    ]
    return StackedTensor(blocks)


def _add(named: Named, name: str, tensor: Tensor) -> None:
    if name in named.tensors:
        raise CheckpointError("duplicate-name", f"two tensors are named {shown(name)!r}")
    named.tensors[name] = tensor
    tensor.name_it(name, named.warnings)
