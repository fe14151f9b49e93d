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
_BY_CODE = {code: dtype for dtype, code in CODES.items()}
_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)


def is_int(value: Any) -> bool:
    """Return True for an integer, which may be a free size."""
    return type(value) is int or isinstance(value, torch.SymInt)


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


class _Parameter(NamedTuple):
    name: str
    kind: Any
    length: int | None
    keyword_only: bool
    required: bool
    enum: str


class Overload(NamedTuple):
    """One operator of torch with its parameters."""

    name: str
    function: Any
    parameters: tuple[_Parameter, ...]

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the arguments by name if they have the types of the parameters; else None."""
        names = [parameter.name for parameter in self.parameters if not parameter.keyword_only]
        if len(args) > len(names) or not kwargs.keys().isdisjoint(names[: len(args)]):
            return None
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for parameter in self.parameters:
            if parameter.name not in given:
                if parameter.required:
                    return None
            elif not _matches(given[parameter.name], parameter.kind, parameter.length):
                return None
        return given if len(given) <= len(self.parameters) and given.keys() <= self._names else None

    @property
    def _names(self) -> set[str]:
        return {parameter.name for parameter in self.parameters}

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Call the operator. TorchScript's numbers of dtypes, layouts and formats become torch's objects."""
        converted = dict(given)
        for parameter in self.parameters:
            value = given.get(parameter.name)
            if parameter.enum and type(value) is int:
                converted[parameter.name] = _enum(parameter.enum, value)
        positional = [converted.pop(p.name) for p in self._leading(converted)]
        return self.function(*positional, **converted)

    def _leading(self, given: Mapping[str, Any]) -> list[_Parameter]:
        leading = []
        for parameter in self.parameters:
            if parameter.keyword_only or parameter.name not in given:
                break
            leading.append(parameter)
        return leading


def _enum(kind: str, value: int) -> Any:
    if kind == "ScalarType" and value in _BY_CODE:
        return _BY_CODE[value]
    if kind == "Layout" and value == 0:
        return torch.strided
    if kind == "MemoryFormat" and 0 <= value < len(_FORMATS):
        return _FORMATS[value]
    raise UnsupportedValueError(f"{kind} {value} is not supported")


def find_overload(
    namespace: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Overload, dict[str, Any]] | None:
    """Return the first overload, in the order of TorchScript, that takes the arguments, with them by name."""
    for overload in _overloads(namespace, name):
        given = overload.bound(args, kwargs)
        if given is not None:
            return overload, given
    return None


@functools.lru_cache(maxsize=2048)
def _overloads(namespace: str, name: str) -> tuple[Overload, ...]:
    packet = getattr(getattr(torch.ops, namespace), name, None)
    schemas = torch._C._jit_get_schemas_for_operator(f"{namespace}::{name}") if packet else []
    return tuple(
        Overload(name, getattr(packet, name), _parameters(schema))
        for schema in schemas
        for name in [schema.overload_name or "default"]
    )


def _parameters(schema: Any) -> tuple[_Parameter, ...]:
    found = []
    for arg in schema.arguments:
        real = str(arg.real_type)
        enum = next((kind for kind in ("ScalarType", "Layout", "MemoryFormat") if kind in real), "")
        required = not arg.has_default_value()
        found.append(_Parameter(arg.name, arg.type, arg.N, arg.kwarg_only, required, enum))
    return tuple(found)
