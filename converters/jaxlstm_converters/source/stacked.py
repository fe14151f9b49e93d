"""A graph in which rows that are written into a tensor one after the other are a stack."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph import Graph, Node, TensorType, Value, uses_of
from jaxlstm_converters.source.calls import live_graph, users_of

FEWEST = 3
"""Number of steps from which a person writes a loop with a state."""


def stacked_graph(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph with a stack instead of the writes that fill consecutive rows of a tensor."""
    users = users_of(graph)
    chains: dict[str, list[Node]] = {}  # result of the last write -> writes, each to the result before
    for node in graph.nodes:
        is_write = node.op == "aten.select_scatter.default" and node.with_gradient
        if is_write and isinstance(node.kwargs["index"], int):
            before = next(uses_of(node))
            chains[node.name] = [*(chains.pop(before, []) if len(users[before]) == 1 else []), node]
    stacks = {name: _stack(chain, types) for name, chain in chains.items() if len(chain) >= FEWEST}
    nodes = [new for node in graph.nodes for new in stacks.get(node.name) or [node]]
    return live_graph(replace(graph, nodes=tuple(nodes)))


def _stack(chain: Sequence[Node], types: Mapping[str, TensorType]) -> list[Node]:
    """Return the nodes that write all rows of a chain at once; none if the rows are not consecutive."""
    last, whole = chain[-1], types[chain[-1].name]
    rows: dict[Any, Any] = {node.kwargs["index"]: node.kwargs["src"] for node in chain}
    axis, *others = {node.kwargs["dim"] for node in chain}
    dtypes = {types[row.name].dtype for row in rows.values()}
    start, end, ndim = min(rows), max(rows) + 1, len(whole.shape)
    is_run = start >= 0 and end - start == len(chain) == len(rows)
    if not is_run or others or dtypes != {whole.dtype}:
        return []
    if not isinstance(axis, int) or axis not in range(-ndim, ndim):
        return []
    kwargs: dict[str, Any] = {"tensors": tuple(rows[place] for place in range(start, end)), "dim": axis}
    if whole.shape[axis] == len(rows):
        return [replace(last, op="aten.stack.default", kwargs=kwargs)]
    shape = list(whole.shape)
    shape[axis] = len(rows)
    name = f"{last.name} rows"
    type_ = TensorType(whole.dtype, tuple(shape))
    part = {"self": chain[0].kwargs["self"], "src": Value(name), "dim": axis, "start": start, "end": end}
    return [
        replace(
            last, name=name, op="aten.stack.default", kwargs=kwargs, outputs=(name,), types={name: type_}
        ),
        replace(last, op="aten.slice_scatter.default", kwargs=part),
    ]
