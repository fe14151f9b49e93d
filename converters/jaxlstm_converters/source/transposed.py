"""A graph in which a tensor is transposed at most once between two operators."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from jaxlstm_converters.source.spelling.typed_node import ZEROS


def transposed_once(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph without transpositions of transposed tensors or of zeros."""
    names: dict[str, str] = {}
    nodes: list[Node] = []
    made: dict[str, tuple[str, Sequence[int]]] = {}  # transposed tensor -> the tensor before, and its axes
    zeros: dict[str, Node] = {}
    for node in graph.nodes:
        node = with_names(node, names)
        if node.op in ZEROS and isinstance(node.kwargs.get("size"), tuple):
            zeros.update(dict.fromkeys(results_of(node), node))
        if (order := _order(node, types)) is not None:
            (source,), (result,) = uses_of(node), results_of(node)
            base, axes = made.get(source, (source, [*range(len(order))]))
            order = [axes[axis] for axis in order]
            made[result] = base, order
            if order == sorted(order):
                names[result] = base
                continue
            if source in made:
                node = replace(
                    node, op="aten.permute.default", kwargs={"self": Value(base), "dims": tuple(order)}
                )
            if base in zeros:
                kwargs = dict[str, Any](zeros[base].kwargs)
                kwargs["size"] = tuple(kwargs["size"][axis] for axis in order)
                node = replace(node, op=zeros[base].op, kwargs=kwargs)
        nodes.append(node)
    return graph_with_nodes(graph, nodes, names)


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
