"""Objects of the classes of an archive that are not modules."""

from __future__ import annotations

import collections
from typing import Any

import torch

from .text import ScriptClass, UnsupportedValueError, plain_name


class ScriptObject:
    """An object of a class of an archive, with its fields as attributes."""

    def __init__(self, kind: ScriptClass) -> None:
        self._jaxlstm_class = kind

    _jaxlstm_text = True


def class_of(value: Any) -> ScriptClass | None:
    """Return the class of a module or object of an archive."""
    is_object = isinstance(value, (torch.nn.Module, ScriptObject))
    return getattr(value, "_jaxlstm_class", None) if is_object else None


_TUPLES: dict[tuple[str, tuple[str, ...]], type] = {}


def new_object(kind: ScriptClass, args: list[Any]) -> Any:
    """Return a named tuple of a class of the archive."""
    names = tuple(kind.fields)
    if kind.base != "NamedTuple" or len(args) != len(names):
        raise UnsupportedValueError(f"{plain_name(kind.name)} with {len(args)} values is not supported")
    if kind.name == "__torch__.torch.nn.utils.rnn.PackedSequence":
        return torch.nn.utils.rnn.PackedSequence(*args)
    key = (plain_name(kind.name), names)
    if key not in _TUPLES:
        module, _, name = key[0].rpartition(".")
        _TUPLES[key] = collections.namedtuple(name, names, module=module or "__torch__")  # type: ignore[misc]
    return _TUPLES[key](*args)
