"""The JSON text of an exported program as a `Graph`.

`torch/_export/serde/schema.py` defines names and kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from jaxlstm.programs.graph import Graph, Input
from jaxlstm_converters.pt2.arguments import read_argument
from jaxlstm_converters.pt2.fields import field, malformed, typed, union
from jaxlstm_converters.pt2.nodes import define, read_nodes
from jaxlstm_converters.pt2.signature import read_signature
from jaxlstm_converters.pt2.tensor_types import TensorTypes

# torch writes "no upper bound" as null or as an integer near 2**63.
_UNBOUNDED = 1 << 62


def read_graph(document: Mapping[str, Any]) -> Graph:
    """Return the graph of a program.

    Args:
        document: the parsed JSON text `models/model.json`, of a known schema version.

    Raises:
        CheckpointError: pt2-malformed, pt2-unsupported, unsupported-tensor, duplicate-name or too-deep.
    """
    module = field(document, "graph_module", dict, "the program")
    graph = field(module, "graph", dict, "the graph")
    types = recorded_types(document)
    signature = read_signature(module)
    inputs = tuple(
        Input(item.name, types.of(item.name) if item.is_tensor else None, item.constant)
        for item in signature.inputs
    )
    axes = {size for item in inputs if item.type for size in item.type.shape if isinstance(size, str)}
    types.free_axes = axes
    defined = _placeholders(graph, signature.placeholders)
    nodes = read_nodes(field(graph, "nodes", list, "the graph"), types, defined)
    return Graph(
        parameters=signature.parameters,
        buffers=signature.buffers,
        constants=signature.constants,
        inputs=inputs,
        nodes=nodes,
        outputs=tuple(read_argument(value, defined, "an output") for value in signature.outputs),
        in_tree=signature.in_tree,
        out_tree=signature.out_tree,
        mutations={name: read_argument(v, defined, "a mutation") for name, v in signature.mutations.items()},
        ranges=_ranges(document, axes),
        guards=_guards(document),
    )


def _guards(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the conditions on sizes as text, each once; files before torch 2.9 have none."""
    texts = typed(document.get("guards_code", []), list, "the guards")
    return tuple(dict.fromkeys(typed(text, str, "a guard") for text in texts))


def recorded_types(document: Mapping[str, Any]) -> TensorTypes:
    """Return the types that a program records for its values."""
    graph = field(field(document, "graph_module", dict, "the program"), "graph", dict, "the graph")
    return TensorTypes(field(graph, "tensor_values", dict, "the graph"))


def _placeholders(graph: Any, expected: Sequence[str | None]) -> set[str]:
    """Return the names of the tensors among the placeholders, which must match the signature."""
    names: list[str | None] = []
    for value in field(graph, "inputs", list, "the graph"):
        tag, content = union(value, "a placeholder")
        names.append(field(content, "name", str, "a placeholder") if tag == "as_tensor" else None)
    if names != list(expected):
        raise malformed("the graph", "its placeholders differ from the signature")
    defined: set[str] = set()
    for name in names:
        if name is not None:
            define(name, defined)
    return defined


def _ranges(document: Any, axes: Set[str]) -> dict[str, tuple[int | None, int | None]]:
    """Return the smallest and largest size of each free axis."""
    ranges: dict[str, tuple[int | None, int | None]] = {}
    for name, bounds in field(document, "range_constraints", dict, "the program").items():
        if name not in axes:
            continue
        context = f"the range of {name}"
        low, high = (
            None if (bound := typed(bounds, dict, context).get(key)) is None else typed(bound, int, context)
            for key in ("min_val", "max_val")
        )
        # torch traces with sizes of at least 2, and accepts 0 and 1 unless the bound is higher.
        low = low if low is not None and low > 2 else None
        ranges[name] = (low, None if high is not None and high >= _UNBOUNDED else high)
    return ranges
