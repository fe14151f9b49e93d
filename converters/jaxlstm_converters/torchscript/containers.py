"""TorchScript's operators on lists, dicts, strings and None, which torch has only in C++ on copies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from .overloads import is_int
from .text import UnsupportedValueError

MAX_LENGTH = 1_000_000
"""Items of a list and characters of a string that an operator may make."""


def _bounded(count: Any) -> None:
    if count > MAX_LENGTH:
        raise UnsupportedValueError(f"a list or string would have {count} items, more than {MAX_LENGTH}")


def _equal(one: Any, other: Any) -> bool:
    """Return True for equal values. Unlike Python's, TorchScript's NaN in two lists are not equal."""
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        raise UnsupportedValueError("lists of tensors cannot be compared")
    return one == other


def _index(items: Any, index: Any) -> int:
    place = index + len(items) if index < 0 else index
    if not 0 <= place < len(items):
        raise IndexError("list index out of range")
    return int(place)


def get_item(value: Any, index: Any) -> Any:
    """Return `value[index]` of a list, tuple, dict or string."""
    if type(value) is dict:
        if index not in value:
            raise KeyError(f"the key {index!r} is not in the dict")
        return value[index]
    if isinstance(value, tuple) and type(index) is slice:
        return tuple(value)[index]
    if isinstance(value, (list, tuple, str)) and is_int(index):
        return value[_index(value, index)]
    raise UnsupportedValueError(f"{type(value).__name__} has no items")


def _set_item(value: Any, index: Any, item: Any) -> Any:
    value[_key(index) if type(value) is dict else _index(value, index)] = item
    return value


def _delete(items: Any, index: Any) -> None:
    get_item(items, index)
    del items[index]


def _key(key: Any) -> Any:
    if type(key) not in (str, int, float, bool):
        raise UnsupportedValueError(f"a dict with keys of type {type(key).__name__} is not supported")
    return key


def make_dict(pairs: Any = ()) -> dict[Any, Any]:
    """Return a dict of pairs of key and value, or of a dict."""
    return {_key(key): value for key, value in (pairs.items() if type(pairs) is dict else pairs)}


def _joined(one: Any, other: Any) -> Any:
    _bounded(len(one) + len(other))
    return one + other


def _extend(items: list[Any], others: list[Any]) -> list[Any]:
    _bounded(len(items) + len(others))
    items.extend(others)
    return items


def _repeated(items: list[Any], count: int) -> list[Any]:
    _bounded(len(items) * max(count, 0))
    return items * count


def _pop_key(items: dict[Any, Any], key: Any, *default: Any) -> Any:
    if key not in items and not default:
        raise KeyError(f"the key {key!r} is not in the dict")
    return items.pop(key, *default)


_BOTH: dict[str, Callable[..., Any]] = {
    "len": len,
    "copy": lambda items: items.copy(),
    "clear": lambda items: items.clear(),
    "Delete": _delete,
    "_set_item": _set_item,
    "__getitem__": get_item,
}
LISTS: dict[str, Callable[..., Any]] = _BOTH | {
    "append": lambda items, item: _extend(items, [item]),
    "extend": _extend,
    "insert": lambda items, index, item: items.insert(index, item),
    "pop": lambda items, index=-1: items.pop(_index(items, index)),
    "reverse": lambda items: items.reverse(),
    "sort": lambda items, reverse=False: items.sort(reverse=reverse),
    "list": list,
    "Size": list,
    "__contains__": lambda items, item: any(_equal(item, other) for other in items),
    "add": _joined,
    "add_": _extend,
    "mul": _repeated,
    "slice": lambda items, start=None, end=None, step=1: items[start:end:step],
    "eq": _equal,
    "ne": lambda one, other: not _equal(one, other),
}
"""Operators whose first argument is a list."""
DICTS: dict[str, Callable[..., Any]] = _BOTH | {
    "keys": list,
    "values": lambda items: list(items.values()),
    "items": lambda items: list(items.items()),
    "get": lambda items, key, default=None: items.get(key, default),
    "pop": _pop_key,
    "setdefault": lambda items, key, default: items.setdefault(_key(key), default),
    "update": lambda items, others: items.update(others),
    "__contains__": lambda items, key: key in items,
}
"""Operators whose first argument is a dict."""


def text_of(value: Any) -> str:
    """Return the text of a value as TorchScript prints it."""
    if type(value) is float:
        is_whole = abs(value) < 1e10 and value == int(value)
        return f"{int(value)}." if is_whole else f"{value:.17g}"
    if isinstance(value, torch.SymInt):
        return str(int(value))
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(text_of, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    if value is None or type(value) in (int, bool, str, torch.device):
        return str(value)
    raise UnsupportedValueError(f"the text of a {type(value).__name__} is not supported")


def _format(text: str, *values: Any) -> str:
    parts, shown = text.split("{}"), [*map(text_of, values), ""]
    _bounded(sum(map(len, shown)) + len(text))
    if len(parts) != len(shown):
        raise UnsupportedValueError(f"the format {text[:50]!r} does not have {len(values)} placeholders")
    return "".join(part + value for part, value in zip(parts, shown, strict=True))


def _percent_format(text: str, *values: Any) -> str:
    if re.search(r"%[^ds]|\{\}", text) or not all(type(value) in (int, str) for value in values):
        raise UnsupportedValueError(f"the format {text[:50]!r} is not supported")
    return _format(re.sub("%[ds]", "{}", text), *values)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return a value with the results of a function as the items of its lists, tuples and dicts."""
    if type(value) is list:
        return [mapped(item, function) for item in value]
    if type(value) is dict:
        return {function(key): mapped(item, function) for key, item in value.items()}
    if isinstance(value, tuple) and (type(value) is tuple or hasattr(value, "_fields")):
        items = (mapped(item, function) for item in value)
        return value._make(items) if hasattr(value, "_fields") else tuple(items)  # type: ignore[attr-defined]
    return function(value)


def to_bytes(value: Any) -> Any:
    """Return a string as TorchScript's, which counts bytes: a string with a character for each byte."""
    return value.encode().decode("latin-1") if type(value) is str else value


def from_bytes(value: Any) -> Any:
    """Return the string of a string of bytes."""
    return value.encode("latin-1").decode() if type(value) is str else value


def _find(name: str) -> Callable[..., Any]:
    def find(text: str, *args: Any) -> Any:
        if not text.isascii():
            raise UnsupportedValueError(f"{name} of text that is not ASCII is not supported")
        return getattr(torch.ops.aten, name)(text, *args)

    return find


STRINGS: dict[str, Callable[..., Any]] = {
    **{name: _find(name) for name in ("find", "rfind", "center", "ljust", "rjust", "zfill", "hash")},
    "format": _format,
    "percentFormat": _percent_format,
    "len": len,
    "ord": ord,
    "slice": lambda text, start=None, end=None, step=1: text[start:end:step],
    "__getitem__": get_item,
    "add": _joined,
    "__contains__": lambda text, part: part in text,
}
"""Operators whose first argument is a string, beside torch's operators in C++."""


def _is(one: Any, other: Any) -> bool:
    is_known = any(isinstance(one, kind) and isinstance(other, kind) for kind in (bool, torch.Tensor))
    if one is not None and other is not None and not is_known:
        raise UnsupportedValueError("`is` is supported for None, bool and tensors only")
    return one is other


ANY: dict[str, Callable[..., Any]] = {
    "__is__": _is,
    "__isnot__": lambda one, other: not _is(one, other),
    "dict": make_dict,
    "warn": lambda message, stacklevel=2: None,
}
"""Operators on values of any type."""
