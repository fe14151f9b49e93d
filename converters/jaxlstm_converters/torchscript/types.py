"""Tests of values against the types that the text of an archive declares."""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch.overrides import is_tensor_like

from .overloads import is_bool, is_float, is_int, is_number
from .sizes import NumberTensor
from .text import dotted, plain_name, type_text

_PLAIN = {
    "Tensor": lambda value: isinstance(value, (torch.Tensor, NumberTensor)) or is_tensor_like(value),
    "int": is_int,
    "float": is_float,
    "bool": is_bool,
    "number": is_number,
    "complex": lambda value: type(value) is complex,
    "str": lambda value: type(value) is str,
    "Device": lambda value: isinstance(value, torch.device),
    "NoneType": lambda value: value is None,
    "Any": lambda value: True,
}


def has_type(value: Any, kind: Any) -> bool:
    """Return True if a value has a type of the text."""
    if not isinstance(kind, ast.Subscript):
        if (test := _PLAIN.get(dotted(kind))) is not None:
            return test(value)
        named = f"{type(value).__module__}.{type(value).__name__}" if hasattr(value, "_fields") else ""
        own = getattr(getattr(value, "_jaxlstm_class", None), "name", named)
        return plain_name(own) == plain_name(dotted(kind))  # a class of the archive
    name, inner = dotted(kind.value), kind.slice
    parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
    if name in ("Optional", "Union"):
        return (value is None and name == "Optional") or any(has_type(value, part) for part in parts)
    if name == "List":
        return type(value) is list and all(has_type(item, inner) for item in value)
    if name == "Tuple":
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(has_type, value, parts))
    if name == "Dict" and type(value) is dict:
        return all(has_type(k, parts[0]) and has_type(v, parts[1]) for k, v in value.items())
    return False


def with_type(value: Any, kind: ast.expr | None, place: str) -> Any:
    """Return an argument from Python as a value of a type, as TorchScript converts it, or raise TypeError."""
    if kind is None:
        return value
    converted = _converted(value, kind)
    if not has_type(converted, kind):
        raise TypeError(f"{place} must be {type_text(kind)}, got {type(value).__name__}")
    return converted


def _converted(value: Any, kind: ast.expr) -> Any:
    name = dotted(kind.value) if isinstance(kind, ast.Subscript) else dotted(kind)
    if name == "Optional" and isinstance(kind, ast.Subscript):
        return None if value is None else _converted(value, kind.slice)
    if name == "List" and isinstance(kind, ast.Subscript) and isinstance(value, (list, tuple)):
        return [_converted(item, kind.slice) for item in value]
    if name == "float" and is_int(value):
        return torch.sym_float(value)
    return value
