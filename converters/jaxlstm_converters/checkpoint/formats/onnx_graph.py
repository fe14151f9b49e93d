"""The tensors and LSTM nodes of an ONNX file, from the main graph and nested graphs.

The `onnx` package parses the file. Everything that it returns is checked here: a name may be bytes instead of
a string, and numbers, sizes and types are those of the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jaxlstm._shared.imports import import_optional

from ..errors import CheckpointError, printable
from ..io._make_tensor import MAX_NDIM, Budget, make_array
from ..io.files import CheckpointFile
from ..io.tensor import Tensor
from .onnx_data import ExternalFiles, data_type, open_data

# The limit of protocol buffers, in bytes.
MAX_FILE = (1 << 31) - 1
# Exporters put some of these between the layers of an LSTM.
REARRANGING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
# Of graphs inside nodes, and of nodes between two layers of an LSTM.
MAX_DEPTH = 20
MAX_TEXT = 4096
# Inputs of an LSTM node.
MAX_INPUTS = 8
SCOPES_KEY = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, slots=True)
class LSTMNode:
    """An LSTM node. `scopes` is the module path that torch's exporter stores in its metadata, or ""."""

    name: str
    scopes: str
    domain: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]

    @property
    def weights(self) -> tuple[str, str, str]:
        """The names of W, R and B; "" for an absent B."""
        _, w, r, b, *_ = (*self.inputs, "", "", "", "")
        return w, r, b

    @property
    def bidirectional(self) -> bool:
        """True if the node runs in both directions."""
        return self._text("direction") == "bidirectional"

    @property
    def batch_first(self) -> bool:
        """True if the input has shape (batch, time, features)."""
        return self._int("layout") == 1

    @property
    def hidden_size(self) -> int:
        """The declared hidden size; 0 if the node does not declare it."""
        return self._int("hidden_size")

    def refuse_unsupported(self) -> None:
        """Raise `onnx-unsupported` for an LSTM that torch.nn.LSTM cannot express."""
        activations = self.attributes.get("activations")
        names = [a.lower() for a in activations.strings[:6]] if activations else []
        problems = {
            "belongs to another domain of operators": self.domain not in ("", "ai.onnx"),
            "runs in reverse only": self._text("direction") not in ("", "forward", "bidirectional"),
            "has other activations": names != [b"sigmoid", b"tanh", b"tanh"] * (len(names) // 3),
            "clips": "clip" in self.attributes,
            "couples its input and forget gates": self._int("input_forget") != 0,
            "has peepholes": len(self.inputs) > 7 and self.inputs[7] != "",
        }
        present = [problem for problem, holds in problems.items() if holds]
        if present:
            raise CheckpointError(
                "onnx-unsupported",
                f"torch.nn.LSTM cannot express LSTM node {printable(self.name)!r}, which "
                f"{' and '.join(present)}",
            )

    def _text(self, name: str) -> str:
        return self.attributes[name].s.decode("utf-8", "replace") if name in self.attributes else ""

    def _int(self, name: str) -> int:
        return self.attributes[name].i if name in self.attributes else 0


@dataclass
class OnnxModel:
    """The contents of an ONNX file.

    Attributes:
        budget: pays for the tensors.
        files: the files with external data.
        warnings: receives lines about tensors and nodes that are not read.
        items_left: the number of nodes, tensors and attributes that the file may still have.
        tensors: initializers and constants by name.
        initializers: the names of those tensors that are initializers.
        rearranged: output -> input of each node that keeps all elements, such as Transpose.
        lstm_nodes: the LSTM nodes of the main graph, then, depth first, of nested graphs.
    """

    budget: Budget
    files: ExternalFiles
    warnings: list[str]
    items_left: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    initializers: set[str] = field(default_factory=set)
    rearranged: dict[str, str] = field(default_factory=dict)
    lstm_nodes: list[LSTMNode] = field(default_factory=list)

    def feeds(self, node: LSTMNode, other: LSTMNode) -> bool:
        """Return True if the input of ``other`` is the output of ``node``, at most rearranged."""
        value = other.inputs[0]
        for _ in range(MAX_DEPTH):
            if value == node.output or value not in self.rearranged:
                break
            value = self.rearranged[value]
        return value == node.output

    def count(self, items: Any) -> Iterable[Any]:
        """Return the items of a repeated field, after counting them."""
        self.items_left -= len(items)
        if self.items_left < 0:
            message = "the model has far more nodes and tensors than a file of this size needs"
            raise CheckpointError("onnx-malformed", message)
        return items


def read_model(source: CheckpointFile, budget: Budget, warnings: list[str]) -> OnnxModel:
    """Return the tensors and LSTM nodes of all graphs.

    Raises:
        CheckpointError: onnx-malformed, duplicate-name, or an error about the data of a tensor.
        ModuleNotFoundError: the `onnx` package is not installed.
    """
    if source.size > MAX_FILE:
        message = f"an ONNX file has {source.size} bytes; the limit of protocol buffers is {MAX_FILE}"
        raise CheckpointError("onnx-malformed", message)
    proto = _parse(source)
    if not proto.HasField("graph"):
        raise CheckpointError("onnx-malformed", "the model has no graph")
    model = OnnxModel(budget, ExternalFiles(source.path, budget), warnings, 200_000 + source.size // 256)
    _read_graph(model, proto.graph, MAX_DEPTH)
    if any(node.op_type == "LSTM" for f in model.count(proto.functions) for node in model.count(f.node)):
        warnings.append("LSTM nodes in functions of the model are skipped: export it with inlined functions")
    return model


def _parse(source: CheckpointFile) -> Any:
    """Return the file as an onnx.ModelProto."""
    decode_error = import_optional("google.protobuf.message", "onnx").DecodeError
    try:
        return import_optional("onnx", "onnx").ModelProto.FromString(source.read(0, source.size))
    except decode_error as error:
        message = f"the file is not a valid ONNX model: {printable(str(error))}"
        raise CheckpointError("onnx-malformed", message) from None


def _read_graph(model: OnnxModel, graph: Any, depth: int) -> None:
    if depth == 0:
        raise CheckpointError("onnx-malformed", f"graphs are nested more than {MAX_DEPTH} deep")
    for initializer in model.count(graph.initializer):
        _read_tensor(model, initializer, _text(initializer.name), is_initializer=True)
    for sparse in model.count(graph.sparse_initializer):
        model.warnings.append(f"{printable(_text(sparse.values.name))!r} is sparse and is skipped")
    for node in model.count(graph.node):
        _read_node(model, node, depth)


def _read_node(model: OnnxModel, node: Any, depth: int) -> None:
    kind, output = node.op_type, _text(node.output[0] if node.output else "")
    if kind == "DynamicQuantizeLSTM":
        model.warnings.append(f"LSTM node {printable(_text(node.name))!r} is quantized and is skipped")
    if kind in REARRANGING and node.input:
        model.rearranged[output] = _text(node.input[0])
    if kind not in ("LSTM", "Constant", "If", "Loop", "Scan"):
        return
    attributes = {_text(a.name): a for a in model.count(node.attribute)}
    if len(attributes) != len(node.attribute):
        raise CheckpointError("onnx-malformed", f"a node of type {kind} has an attribute twice")
    if kind == "LSTM":
        inputs = tuple(map(_text, node.input[:MAX_INPUTS]))
        scopes = next((p.value for p in node.metadata_props[:20] if p.key == SCOPES_KEY), "")
        name = _text(node.name) or output
        model.lstm_nodes.append(LSTMNode(name, _text(scopes), _text(node.domain), inputs, output, attributes))
    elif kind == "Constant" and "value" in attributes:
        constant = attributes["value"].t
        # Inlining a function turns its initializers into constants that keep their names.
        _read_tensor(model, constant, output, is_initializer=constant.name != "")
    else:
        for attribute in attributes.values():
            graphs = [attribute.g] if attribute.HasField("g") else []
            for inner in (*graphs, *model.count(attribute.graphs)):
                _read_graph(model, inner, depth - 1)


def _read_tensor(model: OnnxModel, tensor: Any, name: str, *, is_initializer: bool) -> None:
    shown = repr(printable(name))
    if name in model.tensors:
        raise CheckpointError("duplicate-name", f"two tensors are named {shown}")
    dtype = data_type(tensor.data_type)
    shape = list(tensor.dims[: MAX_NDIM + 1])
    storage = open_data(tensor, dtype, shape, model.files, shown) if dtype else None
    if dtype is None or storage is None:
        if is_initializer:
            model.warnings.append(f"{shown} is skipped: its type or its packing is not supported")
        return
    model.tensors[name] = make_array(storage, dtype, shape, budget=model.budget, label=shown)
    if is_initializer:
        model.initializers.add(name)


def _text(value: Any) -> str:
    """Return a name from the file. For a name that is not UTF-8, protobuf returns bytes."""
    if type(value) is not str or len(value) > MAX_TEXT:
        message = f"a name is not UTF-8, or has more than {MAX_TEXT} characters"
        raise CheckpointError("onnx-malformed", message)
    return value
