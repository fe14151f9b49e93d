"""Slices of a tensor instead of its rows, one by one, where they are stacked or concatenated."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxlstm.programs.graph.graph import Argument, Graph, Node, TensorType, Value
from jaxlstm.programs.graph.rewrite import Site, new_node
from jaxlstm.programs.passes.loop_copies import SELECT, SLICE

STACK, _CAT = "aten.stack.default", "aten.cat.default"
_FEWEST = 3


class _Row(NamedTuple):
    """A row of a tensor along an axis; ``keep`` retains the axis, with size 1."""

    base: Value
    axis: int
    keep: bool
    place: int


def rows_to_slices(node: Node, site: Site) -> list[Node] | None:
    """Let a node that joins consecutive rows of a tensor, forward or backward, take slices of it."""
    items, dim = node.kwargs.get("tensors"), node.kwargs.get("dim", 0)
    if node.op not in (STACK, _CAT) or not isinstance(items, tuple) or not isinstance(dim, int):
        return None
    types = [site.types.get(item.name) if isinstance(item, Value) else None for item in items]
    kinds = {type_ and (type_.dtype, len(type_.shape)) for type_ in types}
    runs = _runs(items, [_row_of(item, site) for item in items])
    # torch.cat promotes dtypes, and leaves out empty tensors.
    if len(kinds) != 1 or None in kinds or all(len(run) < _FEWEST for run, _ in runs):
        return None
    is_stack, added = node.op == STACK, list[Node]()

    def add(op: str, type_: TensorType | None = None, **kwargs: Argument) -> Value:
        added.append(new_node(node, site, f"aten.{op}", type_, **kwargs))
        return Value(added[-1].name)

    rank = max(len(type_.shape) for type_ in types if type_) + is_stack
    if not -rank <= dim < rank:
        return None
    dim %= rank
    pieces: list[Argument] = []
    for run, rows in runs:
        if len(run) < _FEWEST:
            pieces += [add("unsqueeze.default", self=item, dim=dim) if is_stack else item for item in run]
            continue
        base, axis, keep, first = rows[0]
        low, high = sorted((first, rows[-1].place))
        piece, type_ = base, site.types[base.name]
        if type_.shape[axis] != len(run):
            type_ = type_.with_axis(axis, len(run))
            piece = add("slice.Tensor", type_, self=base, dim=axis, start=low, end=high + 1)
        if low < first:
            piece = add("flip.default", type_, self=piece, dims=(axis,))
        if keep:
            type_ = type_.with_axis(axis + 1, 1, inserted=True)
            piece = add("unsqueeze.default", type_, self=piece, dim=axis + 1)
        if axis != dim:
            order = [*range(len(type_.shape))]
            order.insert(dim, order.pop(axis))
            places: dict[str, Argument] = {"source": axis, "destination": dim}
            piece = add("movedim.int", type_.permuted(order), self=piece, **places)
        pieces.append(
            piece if is_stack else add("flatten.using_ints", self=piece, start_dim=dim, end_dim=dim + 1)
        )
    if len(pieces) > 1:
        return [*added, replace(node, op=_CAT, kwargs={"tensors": tuple(pieces), "dim": dim})]
    if not added:
        return [replace(node, op="aten.alias.default", kwargs={"self": pieces[0]})]
    last = added.pop()
    return [*added, replace(node, op=last.op, kwargs=last.kwargs)]


def place_in(graph: Graph, type_: TensorType | None, axis: Argument, index: Argument) -> int | None:
    """Return an index along an axis of a tensor, counted from its start; None unless it is in range."""
    if type_ is None or not isinstance(axis, int) or not isinstance(index, int):
        return None
    if not -len(type_.shape) <= axis < len(type_.shape):
        return None
    size = type_.shape[axis]
    if isinstance(size, int):
        return index % size if -size <= index < size else None
    return index if size and 0 <= index < graph.size_range(size)[0] else None


def _row_of(item: Argument, site: Site) -> _Row | None:
    """Return the row of a tensor that a value is, or None."""
    node = site.maker(item)
    if node is None or node.op not in (SELECT, SLICE) or not node.with_gradient:
        return None
    kwargs: dict[str, Any] = {"dim": 0, **node.kwargs}
    base, axis, keep = kwargs["self"], kwargs["dim"], node.op == SLICE
    start = kwargs.get("start" if keep else "index")
    type_ = site.types.get(base.name)
    place = place_in(site.graph, type_, axis, start)
    if type_ is None or place is None or (keep and (place != start or kwargs.get("end") != place + 1)):
        return None
    return _Row(base, axis % len(type_.shape), keep, place)


def _runs(items: Sequence[Argument], rows: Sequence[_Row | None]) -> list[tuple[list[Argument], list[_Row]]]:
    """Group items that are consecutive rows of one tensor; every other item is a group."""
    runs: list[tuple[list[Argument], list[_Row]]] = []
    for item, row in zip(items, rows, strict=True):
        if runs and row is not None and _continues(runs[-1][1], row):
            runs[-1][0].append(item)
            runs[-1][1].append(row)
        else:
            runs.append(([item], [row] if row else []))
    return runs


def _continues(run: Sequence[_Row], row: _Row) -> bool:
    if not run or run[-1][:-1] != row[:-1]:
        return False
    step = row.place - run[-1].place
    return step == run[-1].place - run[-2].place if len(run) > 1 else abs(step) == 1
