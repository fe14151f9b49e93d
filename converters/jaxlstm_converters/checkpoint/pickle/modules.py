"""Members of an nn.Module that was saved whole, under the names of its state_dict().

Its class need not be installed: the pickle holds the module's `__dict__`, with `_parameters`,
`_buffers` and `_modules`, as a plain dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import CheckpointError, printable
from .values import GlobalName, Placeholder

# A name and a value. The name is None if the value is visited but has no name.
Member = tuple[str | None, Any]


def module_members(value: Placeholder) -> Iterator[Member] | None:
    """Return parameters, persistent buffers and submodules; None if `value` is not an nn.Module."""
    state = value.state
    if not isinstance(state, dict) or "_parameters" not in state or "_modules" not in state:
        return None
    return _members(state)


def module_hints(value: Placeholder) -> dict[str, Any]:
    """Return `batch_first`, `dropout` and the class of an LSTM, as `Checkpoint.hints` describes them."""
    state = value.state
    if not isinstance(state, dict):
        return {}
    hints: dict[str, Any] = {}
    batch_first, dropout = state.get("batch_first"), state.get("dropout", 0.0)
    if type(batch_first) is bool and type(dropout) in (int, float):
        hints |= {"batch_first": batch_first, "dropout": dropout}
    if _may_be_lookalike(value.cls, state):
        hints["lookalike"] = str(value.cls)
    return hints


def has_lstm_names(parameters: Iterable[Any]) -> bool:
    """Return True if a module's own parameters have the names of an LSTM or LSTMCell of torch."""
    return any(type(name) is str and name.startswith("weight_ih") for name in parameters)


def _may_be_lookalike(cls: GlobalName, state: dict[str, Any]) -> bool:
    """Return True for a module with an LSTM's parameter names that is not known to be torch's.

    A class derived from torch.nn.LSTM is known by attributes that torch sets. One derived from LSTMCell has
    no such attributes, and counts as a lookalike.
    """
    parameters = state.get("_parameters")
    if not isinstance(parameters, dict) or cls.module.partition(".")[0] == "torch":
        return False
    is_torchs = state.get("mode") == "LSTM" and "_flat_weights_names" in state
    return has_lstm_names(parameters) and not is_torchs


def _members(state: dict[str, Any]) -> Iterator[Member]:
    non_persistent = set()
    for name in _set_items(state.get("_non_persistent_buffers_set")):
        # Without a name, so that the visit is counted.
        yield None, None
        non_persistent.add(name if type(name) is str else None)
    for group in ("_parameters", "_buffers", "_modules"):
        entries = state.get(group, {})
        if not isinstance(entries, dict) or not all(type(name) is str for name in entries):
            message = f"the {group} of a module are not a dictionary with strings as keys"
            raise CheckpointError("pickle-malformed", message)
        for name, member in entries.items():
            if group == "_buffers" and name in non_persistent:
                yield None, member
                continue
            if group != "_modules" and isinstance(member, Placeholder | GlobalName):
                message = f"{printable(name)!r} is the result of a call that the reader does not make"
                raise CheckpointError("foreign-weight", message)
            yield name, member
    # The packed weights of a quantized LSTM are a plain attribute.
    for name, member in state.items():
        is_packed = isinstance(member, Placeholder) and member.packed_class
        yield (name if is_packed and type(name) is str else None), member


def _set_items(value: Any) -> Iterator[Any]:
    """Yield the elements of a set: its items since pickle protocol 4, its argument before."""
    if isinstance(value, Placeholder):
        yield from value.items
        if value.args and type(value.args[0]) is list:
            yield from value.args[0]
