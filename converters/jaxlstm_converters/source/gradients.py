"""A graph that stops gradients only where they would flow on, not in each operator of ``torch.no_grad``."""

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import (
    Graph,
    Node,
    TensorType,
    Value,
    graph_with_nodes,
    results_of,
    uses_of,
    with_names,
)
from jaxlstm_converters.source.calls import users_of

WITH_VALUES = "jaxlstm.with_values.default"
_DETACH = "aten.detach.default"
_SAME = {WITH_VALUES: "values", _DETACH: "self", "aten.alias.default": "self"}
"""The argument that equals the result where the first one has no gradient."""


def with_few_stops(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph in which, of the nodes inside of no_grad, only those stay where a gradient would end.

    A write into a tensor that has no gradient, such as a buffer, needs none of the old values.
    """
    names: dict[str, str] = {}
    nodes: list[Node] = []
    pure = {*graph.buffers, *graph.constants}  # depend on no parameter and no input
    pure |= {name for name, type_ in types.items() if not jnp.issubdtype(type_.dtype, np.inexact)}
    stopped = set(pure)
    for node in graph.nodes:
        node = with_names(node, names)
        (result, *_), (source, *_) = [*results_of(node), ""], [*uses_of(node), ""]
        if node.op in _SAME and source in stopped:
            same = node.kwargs[_SAME[node.op]]
            assert isinstance(same, Value)
            if same.name in stopped:
                names[result] = same.name
                continue
            node = replace(node, op=_DETACH, kwargs={"self": same})
        is_pure = pure.issuperset(uses_of(node))
        if is_pure:
            pure.update(results_of(node))
            node = replace(node, with_gradient=True)
        if not node.with_gradient or node.op == _DETACH or stopped.issuperset(uses_of(node)):
            stopped.update(results_of(node))
        nodes.append(node)
    return _with_last_stops(graph_with_nodes(graph, nodes, names))


def _with_last_stops(graph: Graph) -> Graph:
    """Return the graph without stops before other stops."""
    users = users_of(graph)
    stops = {node.name for node in graph.nodes if not node.with_gradient}
    for node in graph.nodes:
        values = node.kwargs["values"] if node.op == WITH_VALUES else None
        if isinstance(values, Value) and users[values.name] == {node.name}:
            users[values.name] = stops
    nodes = []
    for node in graph.nodes:
        is_before_stops = all(stops.issuperset(users.get(name, ())) for name in results_of(node))
        nodes.append(replace(node, with_gradient=node.with_gradient or is_before_stops))
    return replace(graph, nodes=tuple(nodes))
