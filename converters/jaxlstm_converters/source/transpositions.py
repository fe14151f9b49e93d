"""Transpositions: at most one between two operators."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph import Node, Site, TensorType, Value, uses_of
from jaxlstm_converters.source.spelling.typed_node import ZEROS


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
