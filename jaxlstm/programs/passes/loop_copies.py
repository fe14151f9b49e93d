"""The iterations of a loop among the nodes of a graph, and the roles of the values that they use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxlstm.programs.graph import Argument, Graph, Node, Value, places_of, uses_of, values_in

SELECT, SLICE, _UNBIND = "aten.select.int", "aten.slice.Tensor", "aten.unbind.int"
SELECT_SCATTER = "aten.select_scatter.default"
_MOVING = (SELECT, SLICE, SELECT_SCATTER)

# Name of a value -> the values that stand for it in the copies, in order.
Names = Mapping[str, tuple[str, ...]]


class Rows(NamedTuple):
    """Rows of an array along an axis, one for each iteration; ``keep`` retains the axis, with size 1."""

    base: str
    axis: int
    places: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True)
class Loop:
    """Consecutive copies of nodes. Names are the names in the first copy.

    Attributes:
      start: index of the first node of the copies.
      count: number of the copies.
      nodes: the nodes of one copy; None for a node whose result is in ``rows``.
      state: name at the start of an iteration -> name at its end.
      rows: name -> rows of an array.
      lists: name -> values of the iterations.
      indices: name of an index -> its values in the iterations; the name is not one of the graph.
      invariants: names of the values that are the same in all iterations.
      collected: name -> names in all copies, for results that are used outside.
      last: name at the end of an iteration -> name after the last one, for states.
    """

    start: int
    count: int
    nodes: tuple[Node | None, ...]
    state: Mapping[str, str]
    rows: Mapping[str, Rows]
    lists: Names
    indices: Mapping[str, tuple[int, ...]]
    invariants: frozenset[str]
    collected: Names
    last: Mapping[str, str]

    @property
    def end(self) -> int:
        """Index of the first node after the copies."""
        return self.start + self.count * len(self.nodes)


class NotALoop(Exception):  # noqa: N818
    """The copies are not iterations of a loop."""


def _refuse_if(condition: object) -> None:
    if condition:
        raise NotALoop


class LoopCopies:
    """Copies of nodes that may be the iterations of a loop, without the first and the last."""

    def __init__(self, graph: Graph, start: int, period: int, count: int) -> None:
        self.graph = graph
        self.start, self.period, self.count = start + period, period, count - 2
        self.end = self.start + period * self.count
        copies = [graph.nodes[at : at + period] for at in range(start, self.end, period)]
        self.first, *self.copies = copies
        self.names = [[name for node in copy for name in places_of(node)] for copy in copies]
        # Name -> copy and place among its results; copy 0 runs before the loop.
        self.homes = {
            name: (copy, place)
            for copy, names in enumerate(self.names)
            for place, name in enumerate(names)
            if name is not None
        }
        self.placeholders = {*graph.parameters, *graph.buffers, *graph.constants}
        self.parts = {name: part for node in graph.nodes[:start] for name, part in _parts_of(node)}
        self.state: dict[str, str] = {}
        self.rows: dict[str, Rows] = {}
        self.lists: dict[str, tuple[str, ...]] = {}
        self.indices: dict[str, tuple[int, ...]] = {}
        self.invariants: set[str] = set()
        # Results in the copy before the loop that are the same in all iterations.
        self.constant: dict[str, str] = {}

    def loop(self) -> Loop:
        """Return the loop; raise if the copies are not its iterations."""
        nodes: list[Node | None] = []
        for offset in range(self.period):
            nodes.append(self._node(offset, [copy[offset] for copy in self.copies]))
        collected, last = self._used_outside()
        roles = [*self.state, *self.rows, *self.lists, *self.invariants]
        changed = {rows.base for rows in self.rows.values()} & self.state.keys()
        moves = self.state or self.rows or self.lists
        _refuse_if(not (moves and any(nodes)) or len(roles) != len(set(roles)) or changed)
        fields = (self.state, self.rows, self.lists, self.indices, frozenset(self.invariants))
        return Loop(self.start, self.count, tuple(nodes), *fields, collected, last)

    def _node(self, offset: int, nodes: Sequence[Node]) -> Node | None:
        """Settle the roles of the arguments of a node; None if its results are rows of a sequence."""
        node = nodes[0]
        if node.op in _MOVING and len({str(_moving(other)) for other in nodes}) > 1:
            return self._part(offset, nodes)
        arguments = [list(uses_of(other)) for other in nodes]
        constant = [self._settle(names) for names in zip(*arguments, strict=True)]
        first = self.first[offset]
        same = [self.constant.get(name, name) for name in arguments[0]]
        same_before = list(uses_of(first)) == same
        if node.op in _MOVING:
            same_before &= _moving(first) == _moving(node)
        results, before = places_of(node), places_of(first)
        if all(constant) and same_before:
            self.constant.update((a, b) for a, b in zip(results, before, strict=True) if a and b)
        return node

    def _part(self, offset: int, nodes: Sequence[Node]) -> Node | None:
        """Settle a node that takes another part of its argument in each iteration."""
        keep = nodes[0].op == SLICE
        base, dim, index = nodes[0].kwargs.get("self"), nodes[0].kwargs.get("dim", 0), []
        for node in nodes:
            start, end = _moving(node)
            if not isinstance(start, int) or (keep and (end != start + 1 or node.kwargs.get("step", 1) != 1)):
                raise NotALoop
            index.append(start)
        names = [list(values_in(tuple(node.kwargs.values()))) for node in nodes]
        (output,) = places_of(nodes[0])
        _refuse_if(not nodes[0].with_gradient)
        if not isinstance(base, Value) or not isinstance(dim, int) or output is None:
            raise NotALoop
        _refuse_if(len(names[0]) != 1 + (nodes[0].op == SELECT_SCATTER))
        is_constant = [self._settle(values) for values in zip(*names, strict=True)]
        if all(is_constant) and nodes[0].op != SELECT_SCATTER:
            self.rows[output] = Rows(self.constant.get(base.name, base.name), dim, tuple(index), keep)
            return None
        _refuse_if(keep)
        self.indices[f"{output} index"] = tuple(index)
        return replace(nodes[0], kwargs={**nodes[0].kwargs, "index": Value(f"{output} index")})

    def _settle(self, names: Sequence[str]) -> bool:
        """Settle the role of an argument, given its names in the copies; True if its value is constant."""
        name, (copy, place) = names[0], self.homes.get(names[0], (-1, -1))
        if copy == 1:
            self._require(names, place, first=1)
            return name in self.constant
        if len(set(names)) == 1:
            _refuse_if(name in self.state)
            self.invariants.add(name)
            return True
        if copy == 0:
            self._require(names, place, first=0)
            end = self.names[1][place]
            if end is None:
                raise NotALoop
            self.state[name] = end
            return False
        self._settle_row(names)
        return False

    def _require(self, names: Sequence[str], place: int, *, first: int) -> None:
        """Raise unless the names belong to one result in consecutive copies."""
        _refuse_if(
            [self.homes.get(name) for name in names] != [(first + k, place) for k in range(self.count)]
        )

    def _settle_row(self, names: Sequence[str]) -> None:
        """Settle an argument that is another value of before the loop in each iteration."""
        if len(set(names)) < self.count or any(
            name in self.placeholders or self.homes.get(name, (0, 0))[0] > 0 for name in names
        ):
            raise NotALoop
        parts = [self.parts[name] for name in names if name in self.parts]
        sources = {(base, axis) for base, axis, _ in parts}
        if len(parts) == len(names) and len(sources) == 1:
            rows = Rows(*sources.pop(), tuple(place for *_, place in parts))
            _refuse_if(self.rows.setdefault(names[0], rows) != rows)
            return
        _refuse_if(self.lists.setdefault(names[0], tuple(names)) != tuple(names))

    def _used_outside(self) -> tuple[Names, dict[str, str]]:
        """Return the results that are used after the loop, and the names of its last state."""
        used: set[str] = set(values_in((*self.graph.outputs, *self.graph.mutations.values())))
        for index, node in enumerate(self.graph.nodes):
            if not self.start <= index < self.end:
                used.update(uses_of(node))
        ends = set(self.state.values())
        collected: dict[str, tuple[str, ...]] = {}
        last: dict[str, str] = {}
        for names in zip(*self.names[1:], strict=True):
            outside = [name for name in names if name in used]
            if outside == [names[-1]] and names[0] in ends:
                last[names[0]] = names[-1]
            elif outside:
                _refuse_if(None in names)
                collected[names[0]] = names
        return collected, last


def _parts_of(node: Node) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """Yield each result of a node that is a row of an array, with the array, its axis and the place."""
    base, axis, index = node.kwargs.get("self"), node.kwargs.get("dim", 0), node.kwargs.get("index")
    if isinstance(base, Value) and isinstance(axis, int) and node.with_gradient:
        if node.op == _UNBIND:
            yield from ((name, (base.name, axis, at)) for at, name in enumerate(places_of(node)) if name)
        elif node.op == SELECT and isinstance(index, int):
            yield node.name, (base.name, axis, index)


def _moving(node: Node) -> tuple[Argument, Argument]:
    """Return the arguments of a node of _MOVING that may differ between iterations."""
    if node.op in (SELECT, SELECT_SCATTER):
        return node.kwargs.get("index"), None
    return node.kwargs.get("start"), node.kwargs.get("end")
