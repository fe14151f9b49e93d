"""nn.Modules that were saved whole: their parameters and buffers, under the names of state_dict().

The class need not be installed. An nn.Module keeps `_parameters`, `_buffers` and `_modules` in its
`__dict__`, which the pickle holds as a plain dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import CheckpointError
from ._name_tensors import Member
from .values import Foreign, Global


def module_members(value: Foreign) -> Iterator[Member] | None:
    """Parameters, persistent buffers, then submodules; None if this is no nn.Module."""
    state = value.state
    if not isinstance(state, dict) or "_parameters" not in state or "_modules" not in state:
        return None
    return _members(state)


def _members(state: dict[str, Any]) -> Iterator[Member]:
    left_out = set()
    for name in _set_members(state.get("_non_persistent_buffers_set")):
        yield None, None  # so that it is counted
        left_out.add(name if type(name) is str else None)
    for group in ("_parameters", "_buffers", "_modules"):
        entries = state.get(group, {})
        if not isinstance(entries, dict):
            raise CheckpointError("pickle-malformed", f"the {group} of a module are no dictionary")
        for name, member in entries.items():
            if type(name) is not str:
                raise CheckpointError("pickle-malformed", f"one of the {group} has no name")
            if group == "_buffers" and name in left_out:
                yield None, member
                continue
            if group != "_modules" and isinstance(member, Foreign | Global):
                raise CheckpointError(
                    "foreign-weight", f"{name!r} is made by a call that is not made here"
                )
            yield name, member
    for name, member in state.items():  # what holds a quantized LSTM is a plain attribute
        packed = isinstance(member, Foreign) and member.packed_class
        yield (name if packed and type(name) is str else None), member


def _set_members(value: Any) -> Iterator[Any]:
    """Of a set: its items since pickle protocol 4, those of its one argument before."""
    if isinstance(value, Foreign):
        yield from value.items
        if value.args and type(value.args[0]) is list:
            yield from value.args[0]
