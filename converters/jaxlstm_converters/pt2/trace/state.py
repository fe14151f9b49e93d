"""Changes of a module's attributes in ``forward``. A program does not make them."""

from __future__ import annotations

import contextlib
import inspect
import linecache
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from jaxlstm._shared.own_thread import ByThread, replaced
from jaxlstm_converters.pt2.trace.model_lines import is_of_model, line_of_model

_OF_TORCH = re.compile(r"_parameters|_buffers|_modules|__\w+__|_abc_impl")
"""Attributes that an export replaces and restores. A program returns the changes of buffers."""


class _Holder(NamedTuple):
    """An object that holds values: a module, an object in its attributes, or a class.

    Attributes:
        path: how forward finds it.
        items: name or index of each value -> the value.
        origin: the module or class and the name of its attribute, in which the object is.
    """

    path: str
    held: Any
    items: dict[Any, Any]
    origin: tuple[Any, Any]

    def restore(self) -> list[Any]:
        """Restore the values, and return the names and indices of the changed ones."""
        now, was, held = _items(self.held) or {}, self.items, self.held
        others = [key for key in {**was, **now} if was.get(key, now) is not now.get(key, was)]
        changed = [key for key in others if not _is_same(was.get(key, now), now.get(key, was))]
        if isinstance(held, np.ndarray) and changed:
            held[...] = was[""]
        elif isinstance(held, (list, deque, set)) and others:
            held.clear()
            (held.update if isinstance(held, set) else held.extend)(was.values())
        elif not isinstance(held, (tuple, np.ndarray)):
            for key in others:
                if isinstance(held, type):
                    type.__setattr__(held, key, was[key]) if key in was else type.__delattr__(held, key)
                else:
                    values = held if isinstance(held, dict) else vars(held)
                    values.update({key: was[key]}) if key in was else values.pop(key)
        return changed

    def path_of(self, key: Any) -> str:
        """Return how forward finds a value."""
        is_object = not isinstance(self.held, (dict, list, deque, set, np.ndarray))
        return f"{self.path}.{key}" if is_object else self.path + f"[{key!r}]" * isinstance(self.held, dict)


def _items(held: Any) -> dict[Any, Any] | None:
    """Return the values that an object holds by name or index; None if it is not the user's."""
    if isinstance(held, np.ndarray):
        return {"": held.copy()}
    if isinstance(held, set):
        return {id(item): item for item in held}
    if isinstance(held, (list, tuple, deque)):
        return dict(enumerate(held))
    if isinstance(held, dict):
        return dict(held)
    kind = held if isinstance(held, type) else type(held)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    is_users = kind.__module__ != "builtins" and (file is None or is_of_model(file))
    if not is_users and not isinstance(held, (torch.nn.Module, SimpleNamespace)):
        return None
    return {key: item for key, item in getattr(held, "__dict__", {}).items() if not _OF_TORCH.fullmatch(key)}


def _is_same(one: Any, other: Any) -> bool:
    """Return True for one object, and for equal values of Python and NumPy."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, np.ndarray):
        return one.tobytes() == other.tobytes()
    if isinstance(one, (list, tuple, dict)):
        mine, others = _items(one) or {}, _items(other) or {}
        return mine.keys() == others.keys() and all(_is_same(mine[key], others[key]) for key in mine)
    return isinstance(one, (bool, int, float, complex, str, bytes)) and one == other


def _holders(module: torch.nn.Module) -> list[_Holder]:
    """Return what holds the attributes of a module and of its classes, and of the objects in them."""
    found, seen = [], set[int]()
    stack: list[Any] = []
    for name, part in module.named_modules():
        stack.append((f"self.{name}".rstrip("."), part, None))
        stack += [(kind.__name__, kind, None) for kind in type(part).__mro__]
    while stack:
        path, held, origin = stack.pop()
        if id(held) in seen or isinstance(held, (torch.Tensor, FunctionType)):
            continue
        if (items := _items(held)) is None or (origin and isinstance(held, type)):
            continue
        seen.add(id(held))
        holder = _Holder(path, held, items, origin or (held, None))
        found.append(holder)
        if not isinstance(held, np.ndarray):
            stack += [(holder.path_of(key), item, origin or (held, key)) for key, item in items.items()]
    return found


@contextlib.contextmanager
def kept_state(module: torch.nn.Module, changed: dict[str, str]) -> Iterator[None]:
    """Restore the attributes of a module, and the objects in them, after each call of it.

    A trace may call the module twice, and the second call would see changes of the first. ``changed`` gets
    the path of each value that a forward changed -> the line; "" if there is none.
    """
    begin, before = _holders(module), list[_Holder]()
    values = [x for holder in begin for x in holder.items.values() if type(x) is torch.Tensor]
    leaves = [(x, x._version, x.clone()) for x in values if x.is_leaf and not x.is_inference()]
    lines: dict[tuple[int, str], str | None] = {}
    set_attribute = torch.nn.Module.__setattr__

    def record(part: Any, name: str, value: Any) -> None:
        # torch itself sets computed weights before each use, for example for weight_norm.
        setter: Any = sys._getframe(1)
        is_script = setter.f_code.co_name == "_set_attribute"
        is_torchs = not (is_script or is_of_model(setter.f_code.co_filename))
        lines[id(part), name] = None if is_torchs else line_of_model()
        is_parameter = name in vars(part).get("_parameters", ()) and not isinstance(value, torch.nn.Parameter)
        if is_parameter and isinstance(value, torch.Tensor):
            vars(part)[name] = value  # The module set its parameter, which a trace replaces by a tensor.
        else:
            set_attribute(part, name, value)

    def enter(*args: Any) -> None:
        lines.clear()
        before[:] = _holders(module)

    def leave(*args: Any) -> None:
        for holder in before:
            owner, attribute = holder.origin
            for key in holder.restore():
                place = id(owner), attribute or key
                line = lines[place] if place in lines and not attribute else line_of(owner, attribute or key)
                if line is not None:
                    changed.setdefault(holder.path_of(key), line)

    hooks = [
        module.register_forward_pre_hook(ByThread(enter, lambda *args: None), prepend=True),
        module.register_forward_hook(ByThread(leave, lambda *args: None)),
    ]
    try:
        with replaced(torch.nn.Module, "__setattr__", record):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for holder in begin:
            holder.restore()
        for tensor, version, value in leaves:
            if tensor._version != version:
                tensor.detach_().copy_(value).requires_grad_(value.requires_grad)


def line_of(owner: Any, attribute: str) -> str | None:
    """Return the line of the user that changes an object in an attribute, or ""; None for a cache."""
    for kind in (owner if isinstance(owner, type) else type(owner)).__mro__:
        if isinstance(vars(kind).get(attribute), cached_property):
            return None
        for function in vars(kind).values():
            if not isinstance(function, FunctionType) or function.__name__ == "__init__":
                continue
            path = function.__code__.co_filename
            first = function.__code__.co_firstlineno
            lines = linecache.getlines(path, function.__globals__)[first - 1 :]
            for number, line in enumerate(inspect.getblock(lines) if lines else (), first):
                if re.search(rf"\.{attribute}\b.*([^=!<>]=[^=]|\.\w+\()", line):
                    return f"{os.path.basename(path)}:{number}: {line.strip()}" if is_of_model(path) else None
    return ""


def read_first(module: torch.nn.Module, run: Callable[[], Any], paths: Iterable[str]) -> set[str]:
    """Return the paths of values, except the attributes of modules that a run writes before it reads them."""
    parts = {f"self.{name}".rstrip("."): id(part) for name, part in module.named_modules()}
    places = {(parts.get(path.rpartition(".")[0]), path.rpartition(".")[2]): path for path in paths}
    unread = {path for (part, name), path in places.items() if part is not None and name.isidentifier()}
    found, set_attribute = {*paths} - unread, torch.nn.Module.__setattr__

    def get(part: Any, name: str) -> Any:
        if (path := places.get((id(part), name))) in unread:
            found.add(path)
        return object.__getattribute__(part, name)

    def set_(part: Any, name: str, value: Any) -> None:
        unread.discard(places.get((id(part), name), ""))
        set_attribute(part, name, value)

    reads = replaced(torch.nn.Module, "__getattribute__", get)
    with kept_state(module, {}), torch.no_grad(), reads, replaced(torch.nn.Module, "__setattr__", set_):
        run()
    return found
