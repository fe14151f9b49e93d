"""What an ONNX file says that matters here: tensors and LSTM nodes, of nested graphs too.

Field numbers are those of onnx.proto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import CheckpointError, shown
from ..io.protobuf import FieldBudget, Message
from ..io.source import Source
from ..io.storage import DTYPES, Budget, Storage
from ..io.stream import Span
from ..io.tensor import Tensor, make_tensor

DATA_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
    15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 19: "float8_e5m2",
}  # fmt: skip
MAX_DEPTH = 20  # of graphs within nodes


@dataclass(frozen=True, slots=True)
class LSTMNode:
    """An LSTM node. `weights` names its W, R and B; B is "" where there is none."""

    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Message]

    @property
    def weights(self) -> tuple[str, str, str]:
        """The names of W, R and B."""
        _, w, r, b, *_ = (*self.inputs, "", "", "", "")
        return w, r, b

    @property
    def bidirectional(self) -> bool:
        """Whether it runs both ways."""
        return self._text("direction") == "bidirectional"

    @property
    def batch_first(self) -> bool:
        """Whether its input is (batch, time, features)."""
        return self._int("layout") == 1

    def refuse_foreign(self) -> None:
        """Raise `onnx-unsupported` for what torch.nn.LSTM cannot do."""
        activations = self.attributes.get("activations")
        names = [a.lower() for a in activations.texts(9)] if activations else []
        reasons = {
            "runs in reverse only": self._text("direction") not in ("", "forward", "bidirectional"),
            "has other activations": names != ["sigmoid", "tanh", "tanh"] * (len(names) // 3),
            "clips": "clip" in self.attributes,
            "couples its input and forget gates": self._int("input_forget") != 0,
            "has peepholes": len(self.inputs) > 7 and self.inputs[7] != "",
        }
        found = [reason for reason, holds in reasons.items() if holds]
        if found:
            raise CheckpointError(
                "onnx-unsupported",
                f"LSTM node {shown(self.name)!r} is not torch's: it {' and '.join(found)}",
            )

    def _text(self, name: str) -> str:
        return self.attributes[name].text(4) if name in self.attributes else ""

    def _int(self, name: str) -> int:
        return self.attributes[name].int(3) if name in self.attributes else 0


@dataclass
class Model:
    """Tensors by name, which of them are initializers (others are constants), and LSTM nodes."""

    budget: Budget
    warnings: list[str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    initializers: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    lstm_nodes: list[LSTMNode] = field(default_factory=list)


def read_model(source: Source, budget: Budget, warnings: list[str]) -> Model:
    """The main graph and, depth first, the graphs within its nodes."""
    model = Model(budget, warnings)
    root = Message(Span(source, 0, source.size), FieldBudget(source.size))
    graphs = list(root.messages(7))
    if len(graphs) != 1:
        raise CheckpointError("onnx-malformed", f"the model has {len(graphs)} graphs")
    _read_graph(model, graphs[0], MAX_DEPTH)
    return model


def _read_graph(model: Model, graph: Message, depth: int) -> None:
    if depth == 0:
        raise CheckpointError("onnx-malformed", "graphs are nested too deeply")
    for initializer in graph.messages(5):
        _read_tensor(model, initializer, initializer.text(8), listed=True)
    for node in graph.messages(1):
        kind = node.text(4)
        if kind == "DynamicQuantizeLSTM":
            model.warnings.append(f"LSTM node {shown(node.text(3))!r} is quantized: not read")
        if kind not in ("LSTM", "Constant", "If", "Loop", "Scan"):
            continue
        attributes = {a.text(1): a for a in node.messages(5)}
        outputs = node.texts(2) or [""]
        if kind == "LSTM":
            name = node.text(3) or outputs[0]
            model.lstm_nodes.append(LSTMNode(name, tuple(node.texts(1)), attributes))
        elif kind == "Constant" and "value" in attributes:
            for constant in attributes["value"].messages(5):
                # Inlining a function turns its initializers into constants that keep their name.
                _read_tensor(model, constant, outputs[0], listed=constant.text(8) != "")
        else:
            for attribute in attributes.values():
                for inner in (*attribute.messages(6), *attribute.messages(11)):
                    _read_graph(model, inner, depth - 1)


def _read_tensor(model: Model, tensor: Message, name: str, *, listed: bool) -> None:
    if name in model.tensors:
        raise CheckpointError("duplicate-name", f"two tensors are named {shown(name)!r}")
    dtype = DTYPES.get(DATA_TYPES.get(tensor.int(2), ""))
    span = _data(tensor)
    if dtype is None or span is None:
        if listed:
            model.warnings.append(
                f"{shown(name)!r} is not read: its values are in another file, or of a type or "
                "in a form that weights do not have"
            )
        return
    storage = Storage(span.source, span.offset, span.length)
    made = make_tensor(storage, dtype, tensor.ints(1), budget=model.budget)
    if made.nbytes != storage.nbytes:
        raise CheckpointError(
            "storage-size",
            f"{shown(name)!r} needs {made.nbytes} bytes and has {storage.nbytes}",
            offset=storage.offset,
        )
    model.tensors[name] = made
    if listed:
        model.initializers.add(name)


def _data(tensor: Message) -> Span | None:
    """raw_data, or float_data or double_data packed in one piece: all are little-endian bytes."""
    if tensor.int(14) == 1:  # data_location: another file
        return None
    for number in (9, {1: 4, 14: 4, 11: 10, 15: 10}.get(tensor.int(2), 9)):
        if tensor.has(number):
            spans = tensor.packed(number)
            return spans[0] if len(spans) == 1 else None
    return None
