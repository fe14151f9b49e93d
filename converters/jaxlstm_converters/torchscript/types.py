"""Tests of values against the types that the text of an archive declares."""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch.overrides import is_tensor_like

from .operators import NumberTensor
from .overloads import is_bool, is_float, is_int, is_number
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
    if isinstance(kind, ast.Subscript):
        name, inner = dotted(kind.value), kind.slice
        parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        if name == "Optional":
            return value is None or has_type(value, inner)
        if name == "Union":
            return any(has_type(value, part) for part in parts)
        if name == "List":
            return type(value) is list and all(has_type(item, inner) for item in value)
        if name == "Tuple":
            empty = isinstance(inner, ast.Tuple) and not inner.elts
            items = value if isinstance(value, tuple) else None
            return items is not None and len(items) == len(parts) * (not empty) and all(
                map(has_type, items, parts)
            )  # fmt: skip
        if name == "Dict":
            pairs = value.items() if type(value) is dict else ()
            return type(value) is dict and all(
                has_type(k, parts[0]) and has_type(v, parts[1]) for k, v in pairs
            )
        return True  # Future, RRef and others, whose values no operator takes
    test = _PLAIN.get(dotted(kind))
    if test is None:  # a class of the archive
        named = f"{type(value).__module__}.{type(value).__name__}" if hasattr(value, "_fields") else None
        own = getattr(getattr(value, "_jaxlstm_class", None), "name", named)
        return own is not None and plain_name(own) == plain_name(dotted(kind))
    return test(value)


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
