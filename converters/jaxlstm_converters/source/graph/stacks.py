"""Rows that are written into a tensor one after the other, as a stack."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph import Node, Site, TensorType, Value, results_of, uses_of

FEWEST = 3
"""Number of steps from which a person writes a loop with a state."""


def stacked(node: Node, site: Site) -> Sequence[Node] | None:
    """Replace the last of the writes that fill consecutive rows of a tensor by a stack of the rows."""
    if not _is_write(node):
        return None
    (result,) = results_of(node)
    users = site.users.get(result, ())
    is_followed = len(users) == 1 and _is_write(users[0]) and users[0].kwargs["self"] == Value(result)
    chain = [] if is_followed else [*_writes(node, site)][::-1]
    return _stack(chain, site.types) if len(chain) >= FEWEST else None


def _is_write(node: Node) -> bool:
    is_row = isinstance(node.kwargs.get("index"), int)
    return node.op == "aten.select_scatter.default" and node.with_gradient and is_row


def _writes(node: Node | None, site: Site) -> Iterator[Node]:
    """Yield a write and the writes before it, of which nothing else uses the results."""
    while node is not None and _is_write(node):
        yield node
        (before, *_) = uses_of(node)
        node = site.maker(Value(before)) if len(site.users[before]) == 1 else None


def _stack(chain: Sequence[Node], types: Mapping[str, TensorType]) -> list[Node] | None:
    """Return the nodes that write all rows of a chain at once, or None if the rows are not consecutive."""
    last = chain[-1]
    whole = types[results_of(last)[0]]
    rows: dict[Any, Any] = {node.kwargs["index"]: node.kwargs["src"] for node in chain}
    axis, *others = {node.kwargs["dim"] for node in chain}
    dtypes = {types[row.name].dtype for row in rows.values()}
    start, end, ndim = min(rows), max(rows) + 1, len(whole.shape)
    is_run = start >= 0 and end - start == len(chain) == len(rows)
    if not is_run or others or dtypes != {whole.dtype}:
        return None
    if not isinstance(axis, int) or axis not in range(-ndim, ndim):
        return None
    kwargs: dict[str, Any] = {"tensors": tuple(rows[place] for place in range(start, end)), "dim": axis}
    stack = replace(last, op="aten.stack.default", kwargs=kwargs)
    if whole.shape[axis] == len(rows):
        return [stack]
    name = f"{last.name} rows"
    part = {"self": chain[0].kwargs["self"], "src": Value(name), "dim": axis, "start": start, "end": end}
    types = {name: whole.with_axis(axis % ndim, len(rows))}
    stack = replace(stack, name=name, outputs=(name,), types=types)
    return [stack, replace(last, op="aten.slice_scatter.default", kwargs=part)]
