"""Nodes that a person would not write: copies, second transpositions, and stops of gradients in a row."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import (
    Graph,
    Node,
    Site,
    TensorType,
    Value,
    results_of,
    rewrite,
    same_sizes,
    uses_of,
)
from jaxlstm.programs.operators.dtypes import held
from jaxlstm_converters.source.spelling.typed_node import ZEROS

_TO_THE_END = 2**63 - 1
# The argument that equals the result, where its type does and the node takes or writes all of an axis.
_SOURCES = {"slice": "self", "slice_scatter": "src", "copy": "src", "type_as": "self", "to": "self"}
_SOURCES |= dict.fromkeys(("_to_copy", "clone", "alias", "contiguous", "lift_fresh_copy", "detach"), "self")
WITH_VALUES = "jaxlstm.with_values.default"
_DETACH = "aten.detach.default"
_SAME = {WITH_VALUES: "values", _DETACH: "self", "aten.alias.default": "self"}
"""The argument that equals the result where the first one has no gradient."""


def without_copies(node: Node, site: Site) -> Value | None:
    """Replace a node whose result equals one of its arguments by the argument.

    An export has a slice of all elements before the index in ``x[:, t]``, and copies a row that it writes.
    """
    bounds = [node.kwargs.get(key) for key in ("start", "end", "step")]
    is_whole = "start" not in node.kwargs or bounds == [0, _TO_THE_END, None]
    source = node.kwargs.get(_SOURCES.get(kind := node.op.split(".")[1], ""))
    if not isinstance(source, Value) or not is_whole:
        return None
    given, made = site.types.get(source.name), site.types[results_of(node)[0]]
    is_same = given and held(given.dtype) == held(made.dtype) and same_sizes(given, made)
    has_gradient = kind != "detach" and node.with_gradient
    return source if is_same and (has_gradient or made.dtype.kind in "iub") else None


def transposed_once(node: Node, site: Site) -> Node | Value | None:
    """Join a transposition with the one before it, and make zeros in the order in which they are wanted."""
    if (order := _order(node, site.types)) is None:
        return None
    before = site.maker(node.kwargs["self"])
    if before is not None and (axes := _order(before, site.types)) is not None:
        order = [axes[axis] for axis in order]
        kwargs = {"self": before.kwargs["self"], "dims": tuple(order)}
        node = replace(node, op="aten.permute.default", kwargs=kwargs)
    base: Any = node.kwargs["self"]
    if order == sorted(order):
        return base
    zeros = site.maker(base)
    if zeros is not None and zeros.op in ZEROS and isinstance(size := zeros.kwargs.get("size"), tuple):
        kwargs = {**zeros.kwargs, "size": tuple(size[axis] for axis in order)}
        return replace(node, op=zeros.op, kwargs=kwargs)
    return node


def _order(node: Node, types: Mapping[str, TensorType]) -> Sequence[int] | None:
    """Return the axes of a tensor in the order in which a node returns them; None for other operators."""
    own = types.get(next(uses_of(node), ""))
    if own is None or not own.shape or not node.with_gradient:
        return None
    order, kwargs = [*range(len(own.shape))], dict[str, Any](node.kwargs)
    match node.op:
        case "aten.permute.default":
            return [order[dim] for dim in kwargs["dims"]]
        case "aten.transpose.int":
            first, second = kwargs["dim0"], kwargs["dim1"]
        case "aten.mT.default" | "aten.t.default":
            first, second = -2, -1
        case _:
            return None
    if len(order) > 1:
        order[first], order[second] = order[second], order[first]
    return order


def with_few_stops(graph: Graph, placeholders: Mapping[str, TensorType]) -> Graph:
    """Return the graph in which, of the nodes inside of no_grad, only those stay where a gradient would end.

    A write into a tensor that has no gradient, such as a buffer, needs none of the old values.
    """
    types = {**placeholders, **graph.types}
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
