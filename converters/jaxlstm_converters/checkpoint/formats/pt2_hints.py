"""The settings of the LSTMs of a program, which its tensors do not contain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LSTMS = ("torch.ops.aten.lstm.input", "torch.ops.jaxlstm.packed_lstm.default")
FIRST_WEIGHT = "weight_ih_l0"


def lstm_hints(document: Any) -> dict[str, dict[str, Any]]:
    """Return prefix -> {"batch_first": ..., "dropout": ...} of each LSTM that the program calls.

    Parts of the document that do not have the expected form are skipped: reading the tensors of a file does
    not require a valid graph.
    """
    hints = {}
    names = dict(_parameters(_at(document, "graph_module", "signature", "input_specs")))
    for node in _items(_at(document, "graph_module", "graph", "nodes")):
        if _at(node, "target") not in LSTMS:
            continue
        arguments = {_text(item, "name"): _at(item, "arg") for item in _items(_at(node, "inputs"))}
        first = next(_items(_at(arguments.get("params"), "as_tensors")), None)
        name = names.get(_text(first, "name"), "")
        batch_first = _at(arguments.get("batch_first"), "as_bool")
        dropout = _at(arguments.get("dropout"), "as_float")
        if name.endswith(FIRST_WEIGHT) and type(batch_first) is bool and type(dropout) is float:
            hints[name.removesuffix(FIRST_WEIGHT)] = {"batch_first": batch_first, "dropout": dropout}
    return hints


def _parameters(specs: Any) -> Iterator[tuple[str, str]]:
    """Yield the name in the graph and the name in torch of each parameter."""
    for spec in _items(specs):
        yield _text(spec, "parameter", "arg", "name"), _text(spec, "parameter", "parameter_name")


def _at(value: Any, *keys: str) -> Any:
    """Return value[key][key]..., or None if it does not exist."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any, *keys: str) -> str:
    text = _at(value, *keys)
    return text if isinstance(text, str) else ""


def _items(value: Any) -> Iterator[Any]:
    return iter(value if isinstance(value, list) else ())
