"""A graph without nodes whose results equal one of their arguments."""

from collections.abc import Mapping

from jaxlstm.programs.graph import Graph, TensorType, Value, graph_with_nodes, with_names
from jaxlstm.programs.operators.dtypes import held
from jaxlstm_converters.source.spelling.typed_node import same_sizes

_TO_THE_END = 2**63 - 1
# The argument that equals the result, where its type does and the node takes or writes all of an axis.
_SOURCES = {"aten.slice.Tensor": "self", "aten.slice_scatter.default": "src", "aten.copy.default": "src"}
_SOURCES |= dict.fromkeys(("aten.type_as.default", "aten.to.dtype", "aten._to_copy.default"), "self")


def without_copies(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return a graph without nodes whose results equal one of their arguments.

    An export has a slice of all elements before the index in ``x[:, t]``, and copies a row that it writes.
    """
    names: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = with_names(node, names)
        bounds = [node.kwargs.get(key) for key in ("start", "end", "step")]
        is_whole = "start" not in node.kwargs or bounds == [0, _TO_THE_END, None]
        source = node.kwargs.get(_SOURCES.get(node.op, ""))
        if isinstance(source, Value) and is_whole and node.with_gradient:
            given, made = types.get(source.name), types[node.name]
            if given and held(given.dtype) == held(made.dtype) and same_sizes(given, made):
                names[node.name] = source.name
                continue
        nodes.append(node)
    return graph_with_nodes(graph, nodes, names)
