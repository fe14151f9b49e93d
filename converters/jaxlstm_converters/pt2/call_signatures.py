"""The arguments and results of the calls of modules in an export, under the names of ``forward``.

torch's ``preserve_module_call_signature`` adds nodes around each call, and refuses calls that pass sizes.
"""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import _ModuleStackTracer, get_proxy_slot

from jaxlstm._shared.own_thread import replaced

SIGNATURES = "jaxlstm_calls"
"""The name of the signatures among the metadata of a graph, and of their extra file."""

_MARK = "jaxlstm_value"
_STARRED = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


class CallSignatures:
    """Records the calls of modules during an export."""

    def __init__(self) -> None:
        self._calls: dict[str, Any] = {}
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the calls of modules inside the block, except layers of torch."""
        call_module = _ModuleStackTracer.call_module

        def record(tracer: Any, module: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                bound = inspect.signature(module.forward).bind(*args, **kwargs)
                kinds = {bound.signature.parameters[name].kind for name in bound.arguments}
                key = next(reversed(tracer.module_stack), "").removeprefix("_export_root").removeprefix(".")
                # The module may write into its arguments.
                arguments = [[name, self._marked(tracer, value)] for name, value in bound.arguments.items()]
                results = forward(*args, **kwargs)
                if kinds.isdisjoint(_STARRED):
                    self._calls[key] = [arguments, self._marked(tracer, results)]
                return results

            is_layer = type(module).__module__.startswith("torch.nn.") and not module._modules
            return call_module(tracer, module, forward if is_layer else run, args, kwargs)

        with replaced(_ModuleStackTracer, "call_module", record):
            yield

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


def _named(value: Any, nodes: Mapping[int, str]) -> Any:
    return [_named(item, nodes) for item in value] if isinstance(value, list) else nodes.get(value)
