"""The overload of an operator that TorchScript would call, by the schemas of torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .text import UnsupportedValueError

DTYPES: tuple[torch.dtype, ...] = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32),
    *(torch.float64, torch.complex32, torch.complex64, torch.complex128, torch.bool),
)
"""torch's dtypes by their number in TorchScript. Quantized ones follow, and bfloat16 with 15."""
CODES = {**{dtype: code for code, dtype in enumerate(DTYPES)}, torch.bfloat16: 15}


def is_int(value: Any) -> bool:
    """Return True for an integer, which may be a free size."""
    return isinstance(value, (int, torch.SymInt)) and type(value) is not bool


def is_float(value: Any) -> bool:
    """Return True for a float, which may depend on a free size."""
    return type(value) is float or isinstance(value, torch.SymFloat)


def is_bool(value: Any) -> bool:
    """Return True for a bool, which may depend on a free size."""
    return type(value) is bool or isinstance(value, torch.SymBool)


def is_number(value: Any) -> bool:
    """Return True for a value of TorchScript's type `number`, which does not include bool."""
    return is_int(value) or is_float(value) or type(value) is complex


_KINDS: dict[str, Callable[[Any], bool]] = {
    "TensorType": lambda value: isinstance(value, torch.Tensor),
    "IntType": is_int,
    "FloatType": is_float,
    "BoolType": is_bool,
    "ComplexType": lambda value: type(value) is complex,
    "NumberType": is_number,
    "StringType": lambda value: type(value) is str,
    "NoneType": lambda value: value is None,
    "DeviceObjType": lambda value: isinstance(value, torch.device),
}


def _matches(value: Any, kind: Any, length: int | None = None) -> bool:
    """Return True if a value has a type of a schema. A number stands for a list of fixed length."""
    name = kind.kind()
    if name == "OptionalType":
        return value is None or _matches(value, kind.getElementType(), length)
    if name == "ListType":
        element = kind.getElementType()
        if type(value) is list:
            return all(_matches(item, element) for item in value)
        return length is not None and element.kind() in ("IntType", "FloatType") and _matches(value, element)
    test = _KINDS.get(name)
    return test is not None and test(value)


class Overload(NamedTuple):
    """One operator of torch, with the parameters of its schema."""

    name: str
    function: Any
    parameters: tuple[Any, ...]

    def bound(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]] | None:
        """Return the arguments with torch's objects for numbers of dtypes; None if it does not take them."""
        names = [parameter.name for parameter in self.parameters if not parameter.kwarg_only]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(given) < len(args) + len(kwargs) or not given.keys() <= {p.name for p in self.parameters}:
            return None
        for parameter in self.parameters:
            if parameter.name not in given:
                if not parameter.has_default_value():
                    return None
            elif not _matches(given[parameter.name], parameter.type, parameter.N):
                return None
            else:
                given[parameter.name] = _converted(given[parameter.name], str(parameter.real_type))
        return [given.pop(name) for name in names[: len(args)]], given


def _converted(value: Any, kind: str) -> Any:
    """Return torch's object for the number of a dtype, layout or memory format."""
    for name, objects in _ENUMS.items():
        if name in kind and type(value) is int:
            if value not in objects:
                raise UnsupportedValueError(f"{name} {value} is not supported")
            return objects[value]
    return value


_ENUMS: dict[str, dict[int, Any]] = {
    "ScalarType": {code: dtype for dtype, code in CODES.items()},
    "Layout": {0: torch.strided},
    "MemoryFormat": dict(
        enumerate(
            (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
        )
    ),
}


def call_overload(namespace: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the first overload, in the order of TorchScript, that takes the arguments.

    Returns NotImplemented if none takes them, or a form of `to` that a trace cannot record.
    """
    for overload in _overloads(namespace, name):
        if (bound := overload.bound(args, kwargs)) is not None:
            is_recorded = not overload.name.startswith("prim_")
            return overload.function(*bound[0], **bound[1]) if is_recorded else NotImplemented
    return NotImplemented


@functools.lru_cache(maxsize=2048)
def _overloads(namespace: str, name: str) -> tuple[Overload, ...]:
    packet = getattr(getattr(torch.ops, namespace), name, None)
    schemas = torch._C._jit_get_schemas_for_operator(f"{namespace}::{name}") if packet else []
    names = [schema.overload_name or "default" for schema in schemas]
    return tuple(
        Overload(own, getattr(packet, own), tuple(schema.arguments))
        for own, schema in zip(names, schemas, strict=True)
    )
