"""ONNX models: initializers by name, and LSTM weights under torch's names and in torch's gate order.

ONNX stacks the gates in the order i, o, f, c, and the directions on the first axis: W has shape
(D, 4H, in), R (D, 4H, H), and B (D, 8H), which is one bias after the other. torch's order is
i, f, g, o, where g is ONNX's c. See https://onnx.ai/onnx/operators/onnx__LSTM.html.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, printable
from ..io._make_tensor import Budget, make_tensor
from ..io.files import CheckpointFile
from ..io.tensor import StackedTensor, Tensor
from .onnx_graph import LSTMNode, OnnxModel, read_model

# The positions of torch's i, f, g, o in ONNX's order.
GATES = (0, 2, 3, 1)
MAX_NODES = 1_000
NodeWeights = tuple[Tensor, Tensor, Tensor | None]
# The names that exporters give to LSTM nodes.
NODE = re.compile(r"(node_)?lstm(_\d+)?", re.IGNORECASE)
# The module path in the metadata of a node of torch's newer exporter, such as "['', 'a', 'a.rnn', 'lstm']".
SCOPES = re.compile(r"\['.*'\]")


def is_onnx(head: bytes) -> bool:
    """Return True if `head` may start a ModelProto: ir_version, then a known field."""
    return len(head) > 3 and head[0] == 8 and head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32:B"


def read_onnx(source: CheckpointFile, budget: Budget) -> Checkpoint:
    """Read the initializers. NodeWeights of LSTM nodes are named `PREFIXweight_ih_l0` and so on.

    The prefix is the module path that torch's newer exporter stores, or else the scope of the node:
    "/decoder/rnn/LSTM" becomes "decoder.rnn.". Consecutive nodes of
    one scope with matching sizes are the layers of one LSTM if each runs on the output of the one before.
    """
    checkpoint = Checkpoint(source.path, "ONNX")
    model = read_model(source, budget, checkpoint.warnings)
    layers = _layers(model, checkpoint)
    used = {name for layer in layers for name in layer.node.weights}
    for layer in layers:
        for name, tensor in _torch_tensors(layer, budget):
            checkpoint.add(layer.prefix + name, tensor)
    for name, tensor in model.tensors.items():
        if name in model.initializers and name not in used:
            checkpoint.add(name, tensor)
    return checkpoint


@dataclass(frozen=True, slots=True)
class _NodeLayer:
    prefix: str
    index: int
    node: LSTMNode
    w: Tensor
    r: Tensor
    b: Tensor | None


def _layers(model: OnnxModel, checkpoint: Checkpoint) -> list[_NodeLayer]:
    """Assign each LSTM node that has weights to a layer of an LSTM."""
    if len(model.lstm_nodes) > MAX_NODES:
        message = f"the model has {len(model.lstm_nodes)} LSTM nodes; the limit is {MAX_NODES}"
        raise CheckpointError("onnx-unsupported", message)
    layers: list[_NodeLayer] = []
    seen: set[tuple[str, ...]] = set()
    prefixes: set[str] = set()
    for number, node in enumerate(model.lstm_nodes):
        weights = _weights(model, node)
        # Several nodes with the same weights are calls of the same LSTM.
        if weights is None or node.weights in seen:
            continue
        seen.add(node.weights)
        scope = _scope(node, number)
        last = layers[-1] if layers else None
        same_scope = last is not None and _scope(last.node, number) == scope
        if last is not None and same_scope and _fits(last, weights) and model.feeds(last.node, node):
            layers.append(_NodeLayer(last.prefix, last.index + 1, node, *weights))
            continue
        prefix = f"{scope}." if scope else ""
        while prefix in prefixes:
            prefix = f"{scope or 'lstm'}_{number}."
            number += 1
        prefixes.add(prefix)
        layers.append(_NodeLayer(prefix, 0, node, *weights))
        if node.batch_first:
            checkpoint.hints[prefix] = {"batch_first": True, "dropout": 0.0}
    return layers


def _weights(model: OnnxModel, node: LSTMNode) -> NodeWeights | None:
    """Return the weights, after checking their shapes; None if the model computes them."""
    shown = printable(node.name)
    if "" in node.weights[:2]:
        raise CheckpointError("onnx-malformed", f"LSTM node {shown!r} has no input W or R")
    missing = [name for name in node.weights if name and name not in model.tensors]
    if missing:
        model.warnings.append(
            f"LSTM node {shown!r} is skipped: the model computes its weight "
            f"{printable(missing[0])!r}, whose inputs are listed under their own names"
        )
        return None
    node.refuse_unsupported()
    w, r = (model.tensors[name] for name in node.weights[:2])
    b = model.tensors[node.weights[2]] if node.weights[2] else None
    hidden = r.shape[-1] if r.ndim == 3 else 0
    _check_shapes(node, hidden, w, r, b)
    states = [model.tensors[name].shape for name in node.inputs[5:7] if name in model.tensors]
    if any(shape[-1:] != (hidden,) for shape in states):
        # torch's newer exporter writes this for an LSTM with proj_size.
        message = f"LSTM node {shown!r} of hidden size {hidden} has initial states of shapes {states}"
        raise CheckpointError("onnx-unsupported", message)
    return w, r, b


def _check_shapes(node: LSTMNode, hidden: int, w: Tensor, r: Tensor, b: Tensor | None) -> None:
    directions = 2 if node.bidirectional else 1
    fits = w.ndim == 3 and (w.shape[:2], r.shape[:2]) == ((directions, 4 * hidden),) * 2
    fits = fits and hidden > 0 and node.hidden_size in (0, hidden)
    if not fits or (b is not None and b.shape != (directions, 8 * hidden)):
        raise CheckpointError(
            "onnx-unsupported",
            f"LSTM node {printable(node.name)!r} with {directions} directions and hidden_size "
            f"{node.hidden_size or hidden} has shapes W {w.shape}, R {r.shape}, "
            f"B {None if b is None else b.shape}; expected (D, 4H, in), (D, 4H, H), (D, 8H)",
        )


def _scope(node: LSTMNode, number: int) -> str:
    """Return the dotted module path of a node."""
    if SCOPES.fullmatch(node.scopes):
        # The last scope is the call, the one before it the module.
        return "".join(node.scopes[2:-2].split("', '")[-2:-1])
    parts = [part for part in node.name.split("/") if part]
    if parts and NODE.fullmatch(parts[-1]):
        parts.pop()
    elif not parts:
        parts = [f"lstm_{number}"]
    return ".".join(parts)


def _fits(last: _NodeLayer, weights: NodeWeights) -> bool:
    """Return True if the output of `last` has the input size of a layer with these weights."""
    w, r, b = weights
    input_size = last.w.shape[0] * last.r.shape[2]
    same_sizes = w.shape[2] == input_size and r.shape == last.r.shape
    return same_sizes and (b is None) == (last.b is None)


def _torch_tensors(layer: _NodeLayer, budget: Budget) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of torch.nn.LSTM by name."""
    w, r, b = layer.w, layer.r, layer.b
    hidden = r.shape[2]
    for direction in range(w.shape[0]):
        suffix = f"_l{layer.index}" + ("_reverse" if direction else "")
        row = direction * 4 * hidden
        yield f"weight_ih{suffix}", _reorder(w, row, (hidden, w.shape[2]), budget)
        yield f"weight_hh{suffix}", _reorder(r, row, (hidden, hidden), budget)
        if b is not None:
            yield f"bias_ih{suffix}", _reorder(b, 2 * row, (hidden,), budget)
            yield f"bias_hh{suffix}", _reorder(b, 2 * row + 4 * hidden, (hidden,), budget)


def _reorder(whole: Tensor, row: int, gate_shape: tuple[int, ...], budget: Budget) -> Tensor:
    """Return the four gates whose rows start at `row`, in torch's order."""
    hidden, *columns = gate_shape
    offsets = [(row + gate * hidden) * math.prod(columns) for gate in GATES]
    return StackedTensor(
        [make_tensor(whole.storage, whole.dtype, gate_shape, budget=budget, offset=n) for n in offsets]
    )
