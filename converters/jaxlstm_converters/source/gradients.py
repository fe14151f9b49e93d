"""A graph that stops gradients only where they would flow on, not in each operator of ``torch.no_grad``."""

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Graph, Node, Site, TensorType, Value, results_of, rewrite, uses_of

WITH_VALUES = "jaxlstm.with_values.default"
_DETACH = "aten.detach.default"
_SAME = {WITH_VALUES: "values", _DETACH: "self", "aten.alias.default": "self"}
"""The argument that equals the result where the first one has no gradient."""


def with_few_stops(graph: Graph, held: Mapping[str, TensorType]) -> Graph:
    """Return the graph in which, of the nodes inside of no_grad, only those stay where a gradient would end.

    A write into a tensor that has no gradient, such as a buffer, needs none of the old values.
    """
    types = {**held, **graph.types}
    pure = {*graph.buffers, *graph.constants}  # depend on no parameter and no input
    pure |= {name for name, type_ in types.items() if not jnp.issubdtype(type_.dtype, np.inexact)}
    stopped = set(pure)

    def without_stop(node: Node, site: Site) -> Node | Value:
        if node.op in _SAME and next(uses_of(node)) in stopped:
            same = node.kwargs[_SAME[node.op]]
            assert isinstance(same, Value)
            if same.name in stopped:
                return same
            node = replace(node, op=_DETACH, kwargs={"self": same})
        if pure.issuperset(uses_of(node)):
            pure.update(results_of(node))
            node = replace(node, with_gradient=True)
        if not node.with_gradient or node.op == _DETACH or stopped.issuperset(uses_of(node)):
            stopped.update(results_of(node))
        return node

    return rewrite(rewrite(graph, without_stop), _with_last_stop)


def _with_last_stop(node: Node, site: Site) -> Node:
    """Remove a stop before other stops."""
    is_last = any(
        user.with_gradient
        and not (user.op == WITH_VALUES and len(users) == 1 and user.kwargs["values"] == Value(name))
        for name in results_of(node)
        for users in [site.users.get(name, ())]
        for user in users
    )
    return replace(node, with_gradient=node.with_gradient or not is_last)
