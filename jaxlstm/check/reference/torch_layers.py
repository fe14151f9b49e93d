"""Intermediate results of torch: the calls of a module's layers, and the nodes of a program's graph."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm._shared.torch_tensors import tensor_to_numpy
from jaxlstm.check.cases.case import Array, LayerRecord
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.torch_model import arrays_of, pinned
from jaxlstm.programs.graph import Argument, Graph, Node, Value, named_results

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def recording(module: torch.nn.Module, records: list[LayerRecord] | None) -> Iterator[list[str]]:
    """Append every call of a submodule to ``records`` within a context; yield the paths that are running."""
    running = [""]

    def keep(path: str, records: list[LayerRecord]) -> Any:
        def hook(layer: Any, args: Any, kwargs: Any, returned: Any) -> None:
            inputs, outputs = _copies([*args, kwargs]), _copies(returned)
            ragged = records[-1].ragged if records else 0
            for packed, arrays in ((returned, outputs), *((arg, inputs) for arg in args)):
                ragged = len(arrays[0]) if _is_packed(packed) else ragged
            records.append(LayerRecord(path, type(layer).__name__, tuple(inputs), tuple(outputs), ragged))

        return hook

    def leave(*_: Any) -> None:
        running.pop()

    handles = []
    for path, submodule in module.named_modules():
        if records is not None:
            handles.append(submodule.register_forward_hook(keep(path, records), with_kwargs=True))
        handles += [
            submodule.register_forward_pre_hook(lambda *_, path=path: running.append(path)),
            submodule.register_forward_hook(leave, always_call=True),
        ]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _copies(tree: Any) -> list[Array]:
    """Return copies of the tensors of a tree, because a later operation may work in place.

    Packed sequences become time-major arrays with NaN in the padding.
    """
    from torch.nn.utils import rnn

    if isinstance(tree, rnn.PackedSequence):
        return [tensor_to_numpy(rnn.pad_packed_sequence(tree, padding_value=math.nan)[0])]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return [copy for entry in tree for copy in _copies(entry)]
    arrays = arrays_of(tree).values()
    return [np.array(a) for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind in "fiub"]


def _is_packed(value: Any) -> bool:
    from torch.nn.utils import rnn

    first = value[0] if type(value) is tuple and value else value
    return isinstance(first, rnn.PackedSequence)


def run_graph(
    graph: Graph, tensors: Mapping[str, Array], inputs: Mapping[str, Array]
) -> dict[str, list[Array]]:
    """Return the tensors that each node returns in torch, by the name of the node.

    The run ends at the first node that torch cannot run, such as an operator that the user registered.
    ``tensors`` holds parameters, buffers and constants by name in torch.
    """
    import torch

    from jaxlstm.check.reference.torch_double import to_tensor

    values: dict[str, Any] = {}
    for names in (graph.parameters, graph.buffers, graph.constants):
        values |= {value: to_tensor(tensors[name]) for value, name in names.items()}
    values |= {name: to_tensor(a) for name, a in inputs.items()}
    results: dict[str, list[Array]] = {}
    with pinned(np.float64), torch.no_grad():
        for node in graph.nodes:
            function = _function(node.op)
            if function is None or any(isinstance(argument, Graph) for argument in node.args):
                break
            try:
                result = _call(function, node, values)
            except PORT_EXCEPTIONS:
                break
            values.update(named_results(node, result))
            leaves = result if isinstance(result, (tuple, list)) else [result]
            # Copies, because a later operator may work in place.
            results[node.name] = [np.array(tensor_to_numpy(a)) for a in leaves if hasattr(a, "detach")]
    return results


def _function(name: str) -> Any:
    """Return a Python operator, or the operator of torch with its overload."""
    import torch

    namespace, _, qualname = name.partition(".")
    if namespace == "_operator":
        return getattr(operator, qualname, None)
    target, _, overload = qualname.partition(".")
    packet = getattr(getattr(torch.ops, namespace), target, None)
    return getattr(packet, overload or "default", None)


def _call(function: Any, node: Node, values: Mapping[str, Any]) -> Any:
    """Call an operator with the positional arguments of its schema where it has them."""
    args = [_argument(a, values) for a in node.args]
    kwargs = {name: _argument(a, values) for name, a in node.kwargs.items()}
    schema = getattr(function, "_schema", None)
    positional = [a.name for a in schema.arguments if not a.kwarg_only] if schema is not None else []
    for name in positional[len(args) :]:
        if name not in kwargs:
            break
        args.append(kwargs.pop(name))
    return function(*args, **kwargs)


def _argument(argument: Argument, values: Mapping[str, Any]) -> Any:
    import torch

    if isinstance(argument, Value):
        return values[argument.name]
    if isinstance(argument, tuple):
        return [_argument(item, values) for item in argument]
    if isinstance(argument, np.dtype):
        return getattr(torch, argument.name)
    return argument
