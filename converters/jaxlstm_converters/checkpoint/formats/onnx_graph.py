"""The tensors and LSTM nodes of an ONNX file, from the main graph and nested graphs.

Field numbers come from https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import CheckpointError, printable
from ..io._make_tensor import make_array
from ..io.budget import Budget
from ..io.dtypes import DTYPES
from ..io.protobuf import FieldBudget, Message
from ..io.source import Source
from ..io.stream import Span
from ..io.tensor import Tensor

DATA_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
    15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 19: "float8_e5m2",
}  # fmt: skip
# Exporters put some of these between the layers of an LSTM.
REARRANGING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
# Of graphs inside nodes, and of nodes between two layers of an LSTM.
MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class LSTMNode:
    """An LSTM node."""

    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Message]

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

    def refuse_unsupported(self) -> None:
        """Raise `onnx-unsupported` for an LSTM that torch.nn.LSTM cannot express."""
        activations = self.attributes.get("activations")
        names = [a.lower() for a in activations.texts(9)] if activations else []
        problems = {
            "runs in reverse only": self._text("direction") not in ("", "forward", "bidirectional"),
            "has other activations": names != ["sigmoid", "tanh", "tanh"] * (len(names) // 3),
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
        return self.attributes[name].text(4) if name in self.attributes else ""

    def _int(self, name: str) -> int:
        return self.attributes[name].int(3) if name in self.attributes else 0


@dataclass
class Model:
    """The contents of an ONNX file.

    Attributes:
        budget: pays for the tensors.
        warnings: receives lines about tensors and nodes that are not read.
        tensors: initializers and constants by name.
        initializers: the names of those tensors that are initializers.
        rearranged: output -> input of each node that keeps all elements, such as Transpose.
        lstm_nodes: the LSTM nodes of the main graph, then, depth first, of nested graphs.
    """

    budget: Budget
    warnings: list[str]
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


def read_model(source: Source, budget: Budget, warnings: list[str]) -> Model:
    """Return the tensors and LSTM nodes of all graphs."""
    model = Model(budget, warnings)
    root = Message(Span(source, 0, source.size), FieldBudget(source.size))
    graphs = list(root.messages(7))
    if len(graphs) != 1:
        raise CheckpointError("onnx-malformed", f"the model has {len(graphs)} graphs, expected 1")
    _read_graph(model, graphs[0], MAX_DEPTH)
    return model


def _read_graph(model: Model, graph: Message, depth: int) -> None:
    if depth == 0:
        raise CheckpointError("onnx-malformed", f"graphs are nested more than {MAX_DEPTH} deep")
    for initializer in graph.messages(5):
        _read_tensor(model, initializer, initializer.text(8), is_initializer=True)
    for node in graph.messages(1):
        kind = node.text(4)
        if kind == "DynamicQuantizeLSTM":
            model.warnings.append(f"LSTM node {printable(node.text(3))!r} is quantized and is skipped")
        outputs = node.texts(2) or [""]
        if kind in REARRANGING and (inputs := node.texts(1)):
            model.rearranged[outputs[0]] = inputs[0]
        if kind not in ("LSTM", "Constant", "If", "Loop", "Scan"):
            continue
        attributes = {a.text(1): a for a in node.messages(5)}
        if kind == "LSTM":
            name = node.text(3) or outputs[0]
            model.lstm_nodes.append(LSTMNode(name, tuple(node.texts(1)), outputs[0], attributes))
        elif kind == "Constant" and "value" in attributes:
            for constant in attributes["value"].messages(5):
                # Inlining a function turns its initializers into constants that keep their names.
                is_initializer = constant.text(8) != ""
                _read_tensor(model, constant, outputs[0], is_initializer=is_initializer)
        else:
            for attribute in attributes.values():
                for inner in (*attribute.messages(6), *attribute.messages(11)):
                    _read_graph(model, inner, depth - 1)


def _read_tensor(model: Model, tensor: Message, name: str, *, is_initializer: bool) -> None:
    if name in model.tensors:
        raise CheckpointError("duplicate-name", f"two tensors are named {printable(name)!r}")
    dtype = DTYPES.get(DATA_TYPES.get(tensor.int(2), ""))
    span = _data(tensor)
    if dtype is None or span is None:
        if is_initializer:
            model.warnings.append(
                f"{printable(name)!r} is skipped: its data is in another file, is not packed, or "
                "has an unsupported type"
            )
        return
    model.tensors[name] = make_array(
        span.storage(), dtype, tensor.ints(1), budget=model.budget, label=repr(printable(name))
    )
    if is_initializer:
        model.initializers.add(name)


def _data(tensor: Message) -> Span | None:
    """Return the little-endian bytes in raw_data, or in float_data or double_data in one piece."""
    # data_location: another file.
    if tensor.int(14) == 1:
        return None
    for number in (9, {1: 4, 14: 4, 11: 10, 15: 10}.get(tensor.int(2), 9)):
        if tensor.has(number):
            spans = tensor.packed(number)
            return spans[0] if len(spans) == 1 else None
    return None
