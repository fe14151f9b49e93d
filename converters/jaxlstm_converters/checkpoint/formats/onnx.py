"""ONNX models: initializers by name, and LSTM weights under torch's names and in torch's gate order.

The `onnx` package parses the file. ONNX stacks the gates in the order i, o, f, c, and the directions on the
first axis: W has shape (D, 4H, in), R (D, 4H, H), and B (D, 8H), which is one bias after the other. torch's
order is i, f, g, o, where g is ONNX's c. See https://onnx.ai/onnx/operators/onnx__LSTM.html.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlstm._shared.imports import import_optional

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe, printable
from ..io._make_tensor import Budget, make_array
from ..io.files import CheckpointFile, MemoryFile, open_beside
from ..io.storage import Storage
from ..io.tensor import DTYPES

# The limit of protocol buffers, in bytes.
MAX_FILE = (1 << 31) - 1
# Exporters put some of these between the layers of an LSTM.
REARRANGING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
MAX_REARRANGING = 20
# The names that exporters give to LSTM nodes.
NODE = re.compile(r"(node_)?lstm(_\d+)?", re.IGNORECASE)
# torch's older exporter repeats the path of a container that is called: "net/net.0".
REPEATED = re.compile(r"(?<![^/])([^/]+)/(?=\1\.)")
# In the metadata of a node of torch's newer exporter; a value is such as "['', 'a', 'a.rnn', 'lstm']".
SCOPES = "pkg.torch.onnx.name_scopes"
ACTIVATIONS = [[], [b"sigmoid", b"tanh", b"tanh"], [b"sigmoid", b"tanh", b"tanh"] * 2]
Arrays = dict[str, np.ndarray]


def is_onnx(head: bytes) -> bool:
    """Return True if `head` may start a ModelProto: ir_version, then a known field."""
    return len(head) > 3 and head[0] == 8 and head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32:B"


def read_onnx(source: CheckpointFile) -> Checkpoint:
    """Read the initializers. Weights of LSTM nodes are named `PREFIXweight_ih_l0` and so on.

    The prefix is the module path that torch's newer exporter stores, or else the scope of the node:
    "/decoder/rnn/LSTM" becomes "decoder.rnn.". Consecutive nodes of one scope with matching sizes are
    the layers of one LSTM if each runs on the output of the one before.

    Raises:
        CheckpointError: onnx-malformed, onnx-unsupported, duplicate-name, or an error about the data.
        ModuleNotFoundError: the `onnx` package is not installed.
    """
    checkpoint = Checkpoint(source.path, "ONNX")
    model = _parse(source)
    graphs = list(_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    stored = [(tensor.name, tensor) for graph in graphs for tensor in graph.initializer]
    constant_nodes = (node for node in nodes if node.op_type == "Constant" and node.output)
    constants = [(node.output[0], a.t) for node in constant_nodes for a in node.attribute if a.t.data_type]
    budget = _include_data(source, [tensor for _, tensor in stored + constants])
    # Inlining a function turns its initializers into constants that keep their names.
    stored += [(name, tensor) for name, tensor in constants if tensor.name]
    initializers = _arrays(stored, checkpoint.warnings)
    layers = _layers(nodes, _arrays(constants, []) | initializers, _last_sizes(graphs), checkpoint)
    used = {name for layer in layers for name in layer.node.input[1:4]}
    for layer in layers:
        for name, array in _torch_arrays(layer):
            _add(checkpoint, layer.prefix + name, array, budget)
    for name, array in initializers.items():
        if name not in used:
            _add(checkpoint, name, array, budget)
    if any(graph.sparse_initializer for graph in graphs):
        checkpoint.warnings.append("sparse initializers are skipped")
    if any(node.op_type == "LSTM" for function in model.functions for node in function.node):
        checkpoint.warnings.append("LSTMs in functions of the model are skipped: inline the functions")
    return checkpoint


def _add(checkpoint: Checkpoint, name: str, array: np.ndarray, budget: Budget) -> None:
    storage = Storage(MemoryFile(array.tobytes(), checkpoint.path), 0, array.nbytes)
    checkpoint.add(name, make_array(storage, array.dtype, array.shape, budget=budget))


def _parse(source: CheckpointFile) -> Any:
    """Return the file as an onnx.ModelProto with a graph."""
    onnx, message = import_optional("onnx", "onnx"), import_optional("google.protobuf.message", "onnx")
    if source.size > MAX_FILE:
        raise CheckpointError("onnx-malformed", f"the file has {source.size} bytes; the limit is {MAX_FILE}")
    try:
        model = onnx.ModelProto.FromString(source.read(0, source.size))
    except message.DecodeError as error:
        raise CheckpointError("onnx-malformed", f"no valid ONNX model: {printable(str(error))}") from None
    if not model.HasField("graph"):
        raise CheckpointError("onnx-malformed", "the model has no graph")
    return model


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield the graph, then depth first the graphs inside of its nodes."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _graphs(inner)


def _last_sizes(graphs: list[Any]) -> dict[Any, int]:
    """Return the sizes of the last axes of values, by name, as far as the graphs declare them."""
    declared = (value for graph in graphs for value in (*graph.input, *graph.output, *graph.value_info))
    dims = {value.name: value.type.tensor_type.shape.dim[-1:] for value in declared}
    return {name: dim.dim_value for name, last in dims.items() for dim in last if dim.HasField("dim_value")}


def _include_data(source: CheckpointFile, tensors: Iterable[Any]) -> Budget:
    """Put the data of other files into their tensors, and return the budget of all files."""
    by_file: dict[Any, list[tuple[Any, dict[str, str]]]] = {}
    for tensor in tensors:
        if tensor.data_location:  # EXTERNAL
            entry = {entry.key: entry.value for entry in tensor.external_data}
            by_file.setdefault(entry.get("location"), []).append((tensor, entry))
    # One after the other: each tensor may have its own file, and a process may open few at once.
    budget = Budget(source.size + sum(open_beside(source.path, name).size for name in by_file))
    for name, stored in by_file.items():
        file = open_beside(source.path, name)
        for tensor, entry in stored:
            try:
                start = int(entry.get("offset", 0))
                size = int(entry.get("length", file.size - start))
            except ValueError as error:
                raise _damaged(tensor.name, error) from None
            budget.spend_on_tensor(size)
            tensor.raw_data = file.read(start, size)
            tensor.data_location = 0
    return budget


def _arrays(tensors: Iterable[tuple[Any, Any]], warnings: list[str]) -> Arrays:
    """Return the elements of each onnx.TensorProto by name."""
    to_array = import_optional("onnx.numpy_helper", "onnx").to_array
    arrays: Arrays = {}
    for name, tensor in tensors:
        if name in arrays:
            raise CheckpointError("duplicate-name", f"two tensors are named {printable(str(name))!r}")
        try:
            # For a name that is not UTF-8, protobuf returns bytes. NumPy would take a size of -1.
            if not isinstance(name, str) or any(size < 0 for size in tensor.dims):
                raise ValueError(f"its sizes are {list(tensor.dims)}")
            array = to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(name, error) from None
        if array.dtype in DTYPES.values():
            arrays[name] = array
        else:
            warnings.append(f"{printable(name)!r} is skipped: its type {array.dtype} is not supported")
    return arrays


def _damaged(name: Any, error: Exception) -> CheckpointError:
    message = f"the tensor {printable(str(name))!r} is damaged: {printable(str(error))}"
    return CheckpointError("onnx-malformed", message)


@dataclass(frozen=True, slots=True)
class _NodeLayer:
    """One LSTM node, which is a layer of the LSTM at `prefix`."""

    node: Any
    scope: str
    prefix: str
    index: int
    weights: list[np.ndarray]
    """W, R, and B if the node has biases."""

    def fits(self, weights: list[np.ndarray]) -> bool:
        """Return True if the output has the input size of a next layer with these weights."""
        directions, _, hidden = self.weights[1].shape
        sizes = [(directions, 4 * hidden, directions * hidden), *(array.shape for array in self.weights[1:])]
        return [array.shape for array in weights] == sizes


def _layers(
    nodes: list[Any], arrays: Arrays, last_sizes: dict[Any, int], checkpoint: Checkpoint
) -> list[_NodeLayer]:
    """Assign each LSTM node that has weights to a layer of an LSTM."""
    last_sizes |= {name: array.shape[-1] for name, array in arrays.items() if array.ndim}
    rearranged = {n.output[0]: n.input[0] for n in nodes if n.op_type in REARRANGING and n.input and n.output}
    layers: list[_NodeLayer] = []
    # Several nodes with the same weights are calls of the same LSTM.
    seen: set[Any] = set()
    for number, node in enumerate(node for node in nodes if node.op_type == "LSTM"):
        names = tuple(name for name in node.input[1:4] if name)
        missing = [printable(str(name)) for name in names if name not in arrays]
        if missing:
            skipped = f"the LSTM node {printable(str(node.name))!r} is skipped: the model computes its weight"
            checkpoint.warnings.append(f"{skipped} {missing[0]!r}")
        if missing or names in seen:
            continue
        seen.add(names)
        weights = [arrays[name] for name in names]
        attributes = _attributes(node)
        states = (*node.input[5:7], *node.output[1:3])
        sizes = {last_sizes[name] for name in states if name in last_sizes}
        _refuse_unsupported(node, attributes, weights, sizes)
        scope, last = _scope(node, number), layers[-1] if layers else None
        if last and last.scope == scope and last.fits(weights) and _feeds(last.node, node, rearranged):
            layers.append(_NodeLayer(node, scope, last.prefix, last.index + 1, weights))
            continue
        prefix = f"{scope}." if scope else ""
        if prefix in seen:
            prefix = f"{scope or 'lstm'}_{number}."
        seen.add(prefix)
        layers.append(_NodeLayer(node, scope, prefix, 0, weights))
        if attributes.get("layout") == 1:
            checkpoint.hints[prefix] = {"batch_first": True, "dropout": 0.0}
    return layers


def _feeds(node: Any, following: Any, rearranged: dict[str, str]) -> bool:
    """Return True if the input of `following` is the output of `node`, at most rearranged."""
    value = following.input[0]
    for _ in range(MAX_REARRANGING):
        if value and value in node.output[:1]:
            return True
        value = rearranged.get(value, "")
    return False


def _attributes(node: Any) -> dict[str, Any]:
    get = import_optional("onnx.helper", "onnx").get_attribute_value
    try:
        return {attribute.name: get(attribute) for attribute in node.attribute}
    except ValueError as error:
        raise CheckpointError("onnx-malformed", f"an LSTM node: {printable(str(error))}") from None


def _refuse_unsupported(
    node: Any, attributes: dict[str, Any], weights: list[np.ndarray], state_sizes: set[int]
) -> None:
    """Raise `onnx-unsupported` for an LSTM that torch.nn.LSTM cannot express."""
    direction = attributes.get("direction", b"forward")
    directions = 2 if direction == b"bidirectional" else 1
    hidden = weights[1].shape[-1] if len(weights) > 1 and weights[1].ndim else 0
    shapes = [array.shape for array in weights]
    expected = [(directions, 4 * hidden, *shapes[0][2:3]), (directions, 4 * hidden, hidden)] if hidden else []
    with_bias = [*expected, (directions, 8 * hidden)]
    activations = repr(attributes.get("activations", [])).lower()
    declared = attributes.get("hidden_size", hidden)
    problems = {
        "belongs to another domain of operators": node.domain not in ("", "ai.onnx"),
        "runs in reverse only": direction not in (b"forward", b"bidirectional"),
        "has other activations": activations not in map(repr, ACTIVATIONS),
        "clips": "clip" in attributes,
        "couples its input and forget gates": attributes.get("input_forget", 0) != 0,
        "has peepholes": len(node.input) > 7 and node.input[7] != "",
        # torch's newer exporter writes this for an LSTM with proj_size.
        "has states of another size": not state_sizes <= {hidden},
        f"has hidden_size {describe(declared)}": declared != hidden,
        f"has weights of shapes {shapes}": not hidden or shapes not in (expected, with_bias),
    }
    present = [problem for problem, holds in problems.items() if holds]
    if present:
        message = f"torch.nn.LSTM cannot express the LSTM node {printable(str(node.name))!r}, which "
        raise CheckpointError("onnx-unsupported", message + " and ".join(present))


def _scope(node: Any, number: int) -> str:
    """Return the dotted module path of a node."""
    scopes = next((str(p.value) for p in node.metadata_props if p.key == SCOPES), "")
    if scopes:
        # The last scope is the call, the one before it the module.
        return "".join(scopes[2:-2].split("', '")[-2:-1])
    parts = [part for part in REPEATED.sub("", str(node.name)).split("/") if part]
    if parts and NODE.fullmatch(parts[-1]):
        parts.pop()
    elif not parts:
        parts = [f"lstm_{number}"]
    return ".".join(parts)


def _torch_arrays(layer: _NodeLayer) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of torch.nn.LSTM by name."""
    w, r, *biases = layer.weights
    for direction in range(len(w)):
        suffix = f"_l{layer.index}" + ("_reverse" if direction else "")
        yield f"weight_ih{suffix}", _torch_gates(w[direction])
        yield f"weight_hh{suffix}", _torch_gates(r[direction])
        for b in biases:
            b_ih, b_hh = np.split(b[direction], 2)
            yield f"bias_ih{suffix}", _torch_gates(b_ih)
            yield f"bias_hh{suffix}", _torch_gates(b_hh)


def _torch_gates(rows: np.ndarray) -> np.ndarray:
    i, o, f, c = np.split(rows, 4)
    return np.concatenate([i, f, c, o])
