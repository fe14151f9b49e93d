"""The kinds of arguments of nodes: the union `Argument` of torch's schema as plain values and references."""

from collections.abc import Callable, Set
from typing import Any

from jaxlstm.programs.graph import Argument, Value
from jaxlstm_converters.checkpoint.errors import printable
from jaxlstm_converters.checkpoint.formats.pt2 import STRIDED, scalar_type
from jaxlstm_converters.pt2.schema.fields import field, malformed, typed, union, unsupported

# Takes the content, the values that exist when the node runs, and the context for error messages.
_Reader = Callable[[Any, Set[str], str], Argument]

# Finite floats are JSON numbers, the others these strings.
_NOT_FINITE = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def read_argument(value: Any, defined: Set[str], context: str) -> Argument:
    """Return an argument.

    Args:
        value: {kind: content}, where kind is one of the names of the schema, such as "as_tensors".
        defined: the values that exist when the node runs.
        context: the node and the argument, for error messages.
    """
    kind, content = union(value, context)
    if kind not in _KINDS:
        raise malformed(context, f"has an argument of the unknown kind {printable(kind)!r}")
    return _KINDS[kind](content, defined, context)


def read_reference(name: Any, defined: Set[str], context: str) -> Value:
    """Return a reference to a value that is already defined."""
    if type(name) is not str or name not in defined:
        shown = repr(printable(name)) if type(name) is str else "a value that is not named by a string"
        raise malformed(context, f"refers to {shown}, which no earlier node defines")
    return Value(name)


def _tensor(content: Any, defined: Set[str], context: str) -> Argument:
    return read_reference(field(content, "name", str, context), defined, context)


def _optional_tensor(content: Any, defined: Set[str], context: str) -> Argument:
    kind, inner = union(content, context)
    if kind not in ("as_tensor", "as_none"):
        raise malformed(context, f"expected a tensor or none, got {printable(kind)!r}")
    return _tensor(inner, defined, context) if kind == "as_tensor" else None


def _plain(kind: type) -> _Reader:
    return lambda content, defined, context: typed(content, kind, context)


def _float(content: Any, defined: Set[str], context: str) -> Argument:
    if type(content) is str and content in _NOT_FINITE:
        return _NOT_FINITE[content]
    return float(content) if type(content) is int else typed(content, float, context)


def _complex(content: Any, defined: Set[str], context: str) -> Argument:
    parts = typed(content, dict, context)
    real, imag = (_float(parts.get(name), defined, context) for name in ("real", "imag"))
    return complex(real, imag)  # type: ignore[arg-type]


def _symbolic(plain: str, reader: _Reader) -> _Reader:
    def read(content: Any, defined: Set[str], context: str) -> Argument:
        tag, inner = union(content, context)
        if tag == "as_name":
            return read_reference(inner, defined, context)
        if tag != plain:
            raise malformed(context, f"expected as_name or {plain}, got {printable(tag)!r}")
        return reader(inner, defined, context)

    return read


def _none(content: Any, defined: Set[str], context: str) -> Argument:
    return None


def _layout(content: Any, defined: Set[str], context: str) -> Argument:
    if content != STRIDED:
        raise unsupported(context, "asks for a sparse layout, which is not supported")
    return None


def _refused(problem: str) -> _Reader:
    def read(content: Any, defined: Set[str], context: str) -> Argument:
        raise unsupported(context, f"{problem}, which is not supported")

    return read


def _list_of(item: _Reader) -> _Reader:
    return lambda content, defined, context: tuple(
        item(part, defined, context) for part in typed(content, list, context)
    )


# The kinds that also occur in lists.
_ITEMS: dict[str, _Reader] = {
    "as_tensor": _tensor,
    "as_optional_tensor": _optional_tensor,
    "as_int": _plain(int),
    "as_float": _float,
    "as_bool": _plain(bool),
    "as_string": _plain(str),
    "as_sym_int": _symbolic("as_int", _plain(int)),
    "as_sym_float": _symbolic("as_float", _float),
    "as_sym_bool": _symbolic("as_bool", _plain(bool)),
}
_KINDS: dict[str, _Reader] = {
    **_ITEMS,
    **{f"{kind}s": _list_of(reader) for kind, reader in _ITEMS.items()},
    "as_nested_tensors": _list_of(_list_of(_tensor)),
    "as_int_lists": _list_of(_list_of(_plain(int))),
    "as_float_lists": _list_of(_list_of(_float)),
    "as_none": _none,
    "as_memory_format": _none,
    "as_device": _none,
    "as_layout": _layout,
    "as_scalar_type": lambda content, defined, context: scalar_type(content),
    "as_graph": _refused("is a subgraph"),
    "as_custom_obj": _refused("uses a custom object"),
    "as_operator": _refused("takes an operator as an argument"),
    "as_complex": _complex,
    "as_string_to_argument": _refused("takes a dictionary as an argument"),
}
