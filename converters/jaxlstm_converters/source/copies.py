"""Copies of tensors that a graph does not need."""

from jaxlstm.programs.graph import Node, Site, Value, same_sizes
from jaxlstm.programs.operators.dtypes import held

_TO_THE_END = 2**63 - 1
# The argument that equals the result, where its type does and the node takes or writes all of an axis.
_SOURCES = {"aten.slice.Tensor": "self", "aten.slice_scatter.default": "src", "aten.copy.default": "src"}
_SOURCES |= dict.fromkeys(("aten.type_as.default", "aten.to.dtype", "aten._to_copy.default"), "self")


def without_copies(node: Node, site: Site) -> Value | None:
    """Replace a node whose result equals one of its arguments by the argument.

    An export has a slice of all elements before the index in ``x[:, t]``, and copies a row that it writes.
    """
    bounds = [node.kwargs.get(key) for key in ("start", "end", "step")]
    is_whole = "start" not in node.kwargs or bounds == [0, _TO_THE_END, None]
    source = node.kwargs.get(_SOURCES.get(node.op, ""))
    if not isinstance(source, Value) or not is_whole or not node.with_gradient:
        return None
    given, made = site.types.get(source.name), site.types[node.name]
    is_same = given and held(given.dtype) == held(made.dtype) and same_sizes(given, made)
    return source if is_same else None
