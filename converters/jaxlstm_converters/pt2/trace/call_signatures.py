"""The arguments and results of the calls of modules and their methods in an export, under the user's names.

torch's ``preserve_module_call_signature`` adds nodes around each call, and refuses calls that pass sizes.
"""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import _ModuleStackTracer, get_proxy_mode, get_proxy_slot

from jaxlstm._shared.own_thread import replaced
from jaxlstm_converters.pt2.trace.model_lines import is_of_model

SIGNATURES = "jaxlstm_calls"
"""The name of the signatures among the metadata of a graph, and of their extra file."""

_MARK = "jaxlstm_value"
_STARRED = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


class CallSignatures:
    """Records the calls of modules during an export.

    Attributes:
        methods: the calls of methods that run now, as ``"path,class,number,method"``.
    """

    def __init__(self) -> None:
        self.methods: list[str] = []
        self._calls: dict[str, Any] = {}
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def recorded(self, module: torch.nn.Module) -> Iterator[None]:
        """Record the calls of a module and its parts inside the block, except layers of torch."""
        call_module = _ModuleStackTracer.call_module

        def record(tracer: Any, module: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                key = next(reversed(tracer.module_stack), "").removeprefix("_export_root").removeprefix(".")
                return self._run(tracer, key, forward, module.forward, args, kwargs)

            is_layer = type(module).__module__.startswith("torch.nn.") and not module._modules
            return call_module(tracer, module, forward if is_layer else run, args, kwargs)

        with contextlib.ExitStack() as stack:
            stack.enter_context(replaced(_ModuleStackTracer, "call_module", record))
            for kind in {kind for part in module.modules() for kind in type(part).__mro__}:
                for name, function in [*vars(kind).items()]:
                    if _is_method(kind, name, function):
                        # Not `replaced`, whose objects Dynamo cannot trace. Other threads have no tracer.
                        type.__setattr__(kind, name, self._recording(function))
                        stack.callback(type.__setattr__, kind, name, function)
            yield

    def _recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of a module that records its calls during an export."""

        @functools.wraps(function)
        def method(module: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_dynamo_compiling():
                return function(module, *args, **kwargs)
            tracer: Any = getattr(get_proxy_mode(), "tracer", None)
            path = _path(tracer, module)
            if path is None:
                return function(module, *args, **kwargs)
            return run_method(tracer, path, module, args, kwargs)

        def run_method(tracer: Any, path: str, module: Any, args: Any, kwargs: Any) -> Any:
            bound = functools.partial(function, module)
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            number, name = next(self._numbers), function.__name__
            self.methods.append(f"{path},{kind},{number},{name}")
            try:
                return self._run(tracer, f"{path}#{number}", bound, bound, args, kwargs)
            finally:
                self.methods.pop()

        return method

    def _run(self, tracer: Any, key: str, run: Any, signature: Any, args: Any, kwargs: Any) -> Any:
        try:
            bound = inspect.signature(signature).bind(*args, **kwargs)
        except (TypeError, ValueError):  # The call raises its own error, or is of code without a signature.
            return run(*args, **kwargs)
        kinds = {bound.signature.parameters[name].kind for name in bound.arguments}
        # The module may write into its arguments.
        arguments = [[name, self._marked(tracer, value)] for name, value in bound.arguments.items()]
        results = run(*args, **kwargs)
        if kinds.isdisjoint(_STARRED):
            self._calls[key] = [arguments, self._marked(tracer, results)]
        return results

    def _marked(self, tracer: Any, value: Any) -> Any:
        """Return the marks of the nodes of tensors in their structure, and None for other values."""
        if isinstance(value, tuple | list):
            return [self._marked(tracer, item) for item in value]
        slot = get_proxy_slot(value, tracer, None) if isinstance(value, torch.Tensor) else None
        return slot and slot.proxy.node.meta.setdefault(_MARK, next(self._numbers))

    def of(self, program: torch.export.ExportedProgram) -> dict[str, Any]:
        """Return the calls by key, with the names of the nodes: ``[[[argument, names], ...], names]``."""
        marked = (node for node in reversed(program.graph.nodes) if _MARK in node.meta)
        nodes = {node.meta.pop(_MARK): node.name for node in marked}
        return {
            key: [[[name, _named(value, nodes)] for name, value in arguments], _named(results, nodes)]
            for key, (arguments, results) in self._calls.items()
        }


def _is_method(kind: type, name: str, function: Any) -> bool:
    """Return True for a method of a user's module, except ``forward`` and special methods."""
    is_plain = isinstance(function, FunctionType) and not inspect.isgeneratorfunction(function)
    is_hidden = name == "forward" or name.startswith("__") or not issubclass(kind, torch.nn.Module)
    return is_plain and not is_hidden and is_of_model(function.__code__.co_filename)


def _path(tracer: Any, module: torch.nn.Module) -> str | None:
    """Return the path of a module in an export, None outside of one and for a class derived from a layer."""
    bases = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn."))
    if not isinstance(tracer, _ModuleStackTracer) or {*bases} != {torch.nn.Module}:
        return None
    try:
        path = tracer.path_of_module(module)
    except NameError:
        return None
    return path.removeprefix("_export_root").removeprefix(".")


def _named(value: Any, nodes: Mapping[int, str]) -> Any:
    return [_named(item, nodes) for item in value] if isinstance(value, list) else nodes.get(value)
