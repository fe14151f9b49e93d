"""Methods of torch modules that replace ``forward``, without importing torch."""

from __future__ import annotations

import functools
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from jaxlstm._shared.own_thread import replaced

_HIDDEN = re.compile(r"_(for|back)ward_.*hooks.*|_compiled_call_impl|forward")
_OWN = "_jaxlstm_own"
"""Attribute with the hidden attributes, which a module has while its method runs."""


def method_of(module: Any, name: str | None = None) -> tuple[Any, Callable[..., Any] | None]:
    """Return the module and the function of a bound method or the method of a name; else None."""
    base = sys.modules["torch"].nn.Module
    if isinstance(module, MethodType):
        if name is not None:
            raise TypeError(f"method must not be given with the bound method {module.__name__}, got {name!r}")
        if not isinstance(module.__self__, base):
            kind = type(module.__self__).__name__
            raise TypeError(f"a bound method must be a method of a torch.nn.Module, got a method of {kind}")
        return module.__self__, module.__func__
    if name is None or not isinstance(module, base):
        return module, None
    method = getattr(module, name, None)
    if not isinstance(method, MethodType) or method.__self__ is not module:
        kinds = [kind for kind in type(module).__mro__ if issubclass(kind, base) and kind is not base]
        methods = {n for kind in kinds for n, value in vars(kind).items() if isinstance(value, FunctionType)}
        names = ", ".join(sorted(n for n in methods if not n.startswith("_")))
        raise ValueError(f"method must be a method of {type(module).__name__} ({names}), got {name!r}")
    return module, method.__func__


def set_forward(module: Any, function: Callable[..., Any] | None) -> Callable[[], None]:
    """Let calls of a module, and of copies of it, run a method instead of ``forward``.

    While the method runs, the module has its own ``forward``, ``__call__`` and hooks. The hooks do not run
    for the method itself, as in torch. Returns a function that restores the module.
    """
    if function is None:
        return lambda: None
    base, plain = type(module), sys.modules["torch"].nn.Module

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        hidden, outer = vars(self).pop(_OWN), _take_hidden(self)
        vars(self).update({"forward": super(kind, self).forward, **hidden})
        try:
            return function(self, *args, **kwargs)
        finally:
            _take_hidden(self)
            vars(self).update({**outer, _OWN: hidden})

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (plain.__call__ if _OWN in vars(self) else base.__call__)(self, *args, **kwargs)

    def restore() -> None:
        _take_hidden(module)
        vars(module).update(vars(module).pop(_OWN))
        object.__setattr__(module, "__class__", base)

    namespace = {"__module__": base.__module__, "__qualname__": base.__qualname__, "forward": run}
    if base.__call__ is not plain.__call__:
        namespace["__call__"] = call
    # The user's class, or its metaclass, may register subclasses by name.
    with replaced(base, "__init_subclass__", classmethod(lambda cls: None)):
        kind: Any = type.__new__(type(base), base.__name__, (base,), namespace)
    hidden = _take_hidden(module)
    vars(module).update({_OWN: hidden, **{name: OrderedDict() for name in hidden if "hooks" in name}})
    object.__setattr__(module, "__class__", kind)
    return restore


def _take_hidden(module: Any) -> dict[str, Any]:
    return {name: vars(module).pop(name) for name in [*vars(module)] if _HIDDEN.fullmatch(name)}
