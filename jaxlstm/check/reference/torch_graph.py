"""torch's operators on the graph of a program, with every intermediate result."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.torch_model import pinned
from jaxlstm.programs.graph import Argument, Graph, Node, Value

Array = np.ndarray


def run_graph(
    graph: Graph, tensors: Mapping[str, Array], inputs: Mapping[str, Array]
) -> dict[str, list[Array]]:
    """Return the tensors that each node returns in torch, by the name of the node.

    The run ends at the first node that torch cannot run, such as an operator that the user registered.

    Args:
      graph: the graph, in float64.
      tensors: parameters, buffers and constants by name in torch.
      inputs: the inputs by name of value.
    """
    import torch

    values: dict[str, Any] = {}
    for names in (graph.parameters, graph.buffers, graph.constants):
        values |= {value: _tensor(tensors[name]) for value, name in names.items()}
    values |= {name: _tensor(a) for name, a in inputs.items()}
    found: dict[str, list[Array]] = {}
    with pinned(np.float64), torch.no_grad():
        for node in graph.nodes:
            function = _function(node.op)
            if function is None or any(isinstance(argument, Graph) for argument in node.args):
                break
            try:
                result = _call(function, node, values)
            except PORT_EXCEPTIONS:
                break
            _bind(node, result, values)
            # Copies, because a later operator may work in place.
            found[node.name] = [np.array(tensor_to_numpy(a)) for a in _tensors(result)]
    return found


def _tensor(array: Array) -> Any:
    return numpy_to_tensor(np.array(array, order="C"))


def _function(name: str) -> Any:
    """Return a Python operator, or the operator of torch with its overload."""
    import torch

    namespace, _, rest = name.partition(".")
    if namespace == "_operator":
        return getattr(operator, rest, None)
    target, _, overload = rest.partition(".")
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


def _bind(node: Node, result: Any, values: dict[str, Any]) -> None:
    results = (result,) if len(node.outputs) == 1 else result
    for output, value in zip(node.outputs, results, strict=False):
        if isinstance(output, str):
            values[output] = value
        elif output is not None:
            values.update(zip(output, value, strict=True))


def _tensors(result: Any) -> list[Any]:
    leaves = result if isinstance(result, (tuple, list)) else [result]
    return [leaf for leaf in leaves if hasattr(leaf, "detach")]
