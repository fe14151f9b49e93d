"""``with_casts``: float64 constants that the model only casts are held in the dtype of the cast.

``torch.Tensor(array)`` and ``torch.from_numpy(array).float()`` leave such constants in a program.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Graph, Node, Site, Value, results_of, rewrite, users_of

_SAME = ("lift_fresh_copy", "lift_fresh", "detach_", "detach", "alias", "clone")
_CASTS = ("to", "_to_copy")
_ASSERTION = "aten._assert_tensor_metadata.default"


def with_casts(graph: Graph, tensors: Mapping[str, Any]) -> tuple[Graph, Mapping[str, Any]]:
    """Return a graph without the casts of float64 constants to one dtype, and the tensors with cast ones."""
    double = {v: n for v, n in graph.constants.items() if np.asarray(tensors.get(n)).dtype == np.float64}
    if not double:
        return graph, tensors
    users, new_dtypes, cast = users_of(graph), dict[str, np.dtype](), dict(tensors)
    for value, name in double.items():
        if (dtype := _only_dtype(value, users)) is not None:
            new_dtypes[value], cast[name] = dtype, np.asarray(tensors[name]).astype(dtype)

    def without_cast(node: Node, site: Site) -> Node | Value | list[Node] | None:
        source = next(iter(node.kwargs.values()), None)
        if not isinstance(source, Value) or source.name not in new_dtypes:
            return None
        if node.op == _ASSERTION:
            return []
        # The model may write into the result of a cast.
        copy = replace(node, op="aten.clone.default", kwargs={"self": source})
        return source if _dtype_after(node) == np.float64 else copy

    return rewrite(graph, without_cast), cast


def _only_dtype(value: str, users: Mapping[str, list[Node]]) -> np.dtype | None:
    """Return the floating-point dtype to which all uses cast a float64 value; None if others exist."""
    dtypes, pending = set[np.dtype | None](), [value]
    while pending:
        for node in users.get(pending.pop(), []):
            dtype = _dtype_after(node)
            if node.op == _ASSERTION:
                continue
            if dtype == np.float64:
                pending += results_of(node)
            else:
                dtypes.add(dtype)
    (only, *others) = dtypes or {None}
    return None if others or only is None or only.kind not in "fV" else only


def _dtype_after(node: Node) -> np.dtype | None:
    """Return the dtype of a float64 tensor after a node, None for a node that does more than cast it."""
    kind = node.op.removeprefix("aten.").partition(".")[0]
    dtype = node.kwargs.get("dtype")
    if kind in _SAME or (kind in _CASTS and dtype is None and "other" not in node.kwargs):
        return np.dtype(np.float64)
    return dtype if kind in _CASTS and isinstance(dtype, np.dtype) else None
