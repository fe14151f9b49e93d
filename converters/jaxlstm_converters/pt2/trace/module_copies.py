"""Copies of a live module for an export."""

import contextlib
import copy
import dis
import functools
import types
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree

from jaxlstm._shared.torch_tensors import with_attributes_of


def copied(module: torch.nn.Module, memo: Mapping[int, Any] | None = None) -> torch.nn.Module:
    """Return a deep copy; ``memo`` has the copies of some objects. Computed weights lose their gradient."""
    leaves = _leaves(module)
    # torch copies no tensor that it computed, such as the weight of weight_norm.
    computed = {id(x): x.detach().clone() for x in leaves if isinstance(x, torch.Tensor) and not x.is_leaf}
    # An object without attributes is there for its identity: ``if self.state is MISSING``.
    plain = (x for x in leaves if type(x).__new__ is object.__new__ and not hasattr(x, "__slots__"))
    same = {id(x): x for x in plain if not getattr(x, "__dict__", None)}
    return with_attributes_of(module, copy.deepcopy(module, {**same, **computed, **(memo or {})}))


def traced_copy(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of the modules, lists and dicts of a module, with the same tensors and other objects.

    Other threads may call the module while an export changes the attributes of the copy. The result is the
    module itself if it has no copy, or if its code finds a part of the module in other ways: by a closure, a
    global name, an ``id``.
    """
    copied_kinds = torch.nn.Module, torch.fx.Graph, types.MethodType, functools.partial
    kept = {id(x): x for x in _leaves(module) if not issubclass(type(x), copied_kinds)}
    try:
        twin = copy.deepcopy(module, kept)
    except (RuntimeError, TypeError, AttributeError, copy.Error):  # Of a __deepcopy__ or __setstate__.
        return module
    return module if _reaches(twin, {id(part) for part in module.modules()}) else twin


def _leaves(module: torch.nn.Module) -> list[Any]:
    return _pytree.tree_leaves([list(vars(part).values()) for part in module.modules()])


_INSIDE: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__self__", "__func__"),
    functools.partial: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    property: ("fget",),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    types.CellType: ("cell_contents",),
}
"""Attributes that lead from a kind of object to others."""


def _reaches(module: torch.nn.Module, parts: set[int]) -> bool:
    """Return True if attributes, closures or global names lead from a module to one of the parts."""
    kinds = {kind for part in module.modules() for kind in type(part).__mro__}
    pending: list[Any] = [_leaves(module), *([*vars(kind).values()] for kind in kinds)]
    seen = set[int]()
    while pending:
        for x in _pytree.tree_leaves(pending.pop()):
            if id(x) in parts or type(x) in weakref.ProxyTypes:
                return True
            if id(x) in seen or isinstance(x, torch.Tensor | type | types.ModuleType):
                continue
            seen.add(id(x))
            inside = next((names for kind, names in _INSIDE.items() if isinstance(x, kind)), ("__dict__",))
            with contextlib.suppress(ValueError):  # A cell may be empty.
                pending += [getattr(x, name, None) for name in inside]
            if isinstance(x, weakref.ref):
                pending.append(x())
            elif isinstance(x, types.FunctionType) and not (x.__module__ or "").startswith("torch."):
                names = _global_names(x.__code__)
                if "id" in names:
                    return True
                pending += [x.__closure__, [x.__globals__.get(name) for name in names]]
    return False


def _global_names(code: types.CodeType) -> set[str]:
    """Return the global names that a function and the functions inside of it read."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*map(_global_names, inner))
