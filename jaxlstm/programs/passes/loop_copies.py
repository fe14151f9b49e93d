"""The iterations of a loop among the nodes of a graph, and the roles of the values that they use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxlstm.programs.graph.graph import Argument, Graph, Node, Value
from jaxlstm.programs.graph.values import places_of, results_of, uses_of, values_in, with_arguments

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
      constant: the nodes whose results are the same in all iterations.
      nodes: the nodes of one copy; None for a node whose result is in ``rows``.
      state: name at the start of an iteration -> name at its end.
      initial: name at the start of an iteration -> the value before the first one.
      rows: name -> rows of an array.
      lists: name -> values of the iterations.
      indices: name of an index -> its values in the iterations; the name is not one of the graph.
      invariants: names of the values that are the same in all iterations.
      collected: name -> names in all copies, for results that are used outside.
      last: name at the end of an iteration -> name after the last one, for states.
    """

    start: int
    count: int
    constant: tuple[Node, ...]
    nodes: tuple[Node | None, ...]
    state: Mapping[str, str]
    initial: Mapping[str, str]
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
    """Copies of nodes that may be the iterations of a loop."""

    def __init__(self, graph: Graph, start: int, period: int, count: int) -> None:
        self.graph, self.start, self.count = graph, start, count
        self.end = start + period * count
        self.copies = [graph.nodes[k : k + period] for k in range(start, self.end, period)]
        self.names = [[name for node in copy for name in places_of(node)] for copy in self.copies]
        # Name -> copy and place among its results.
        self.homes = {
            name: (copy, place)
            for copy, names in enumerate(self.names)
            for place, name in enumerate(names)
            if name is not None
        }
        self.placeholders = {*graph.parameters, *graph.buffers, *graph.constants}
        self.parts = {name: part for node in graph.nodes[:start] for name, part in _parts_of(node)}
        self.state: dict[str, str] = {}
        self.initial: dict[str, str] = {}
        self.rows: dict[str, Rows] = {}
        self.lists: dict[str, tuple[str, ...]] = {}
        self.indices: dict[str, tuple[int, ...]] = {}
        self.invariants: set[str] = set()
        self.constant: dict[str, Node] = {}  # result that is the same in all iterations -> its node

    def loop(self) -> Loop:
        """Return the loop; raise if the copies are not its iterations."""
        nodes = [self._node(matching) for matching in zip(*self.copies, strict=True)]
        collected, last = self._used_outside()
        names = [*self.state, *self.rows, *self.lists, *self.invariants]
        moves = self.state or self.rows or self.lists
        _refuse_if(not (moves and any(nodes)) or len(names) != len(set(names)))
        constant = {node.name: node for node in self.constant.values()}
        roles = (self.state, self.initial, self.rows, self.lists, self.indices, frozenset(self.invariants))
        return Loop(self.start, self.count, tuple(constant.values()), tuple(nodes), *roles, collected, last)

    def _node(self, nodes: Sequence[Node]) -> Node | None:
        """Settle the roles of the arguments of a node; None if its results are rows of a sequence."""
        names = iter([self._settle(names) for names in zip(*map(uses_of, nodes), strict=True)])
        node = with_arguments(nodes[0], lambda _: Value(next(names)))
        is_constant = all(name in self.constant or name in self.invariants for name in uses_of(node))
        if node.op in _MOVING and len({str(_moving(other)) for other in nodes}) > 1:
            return self._part(node, [*map(_moving, nodes)], is_constant)
        if is_constant:
            self.constant.update(dict.fromkeys(results_of(node), node))
        return node

    def _part(
        self, node: Node, places: Sequence[tuple[Argument, Argument]], is_constant: bool
    ) -> Node | None:
        """Settle a node that takes another part of its argument in each iteration."""
        keep, index = node.op == SLICE, list[int]()
        base, dim, step = (node.kwargs.get("self"), node.kwargs.get("dim", 0), node.kwargs.get("step", 1))
        for start, end in places:
            if not isinstance(start, int) or (keep and (end != start + 1 or step != 1)):
                raise NotALoop
            index.append(start)
        (output,) = places_of(node)
        _refuse_if(not node.with_gradient or len([*uses_of(node)]) != 1 + (node.op == SELECT_SCATTER))
        if not isinstance(base, Value) or not isinstance(dim, int) or output is None:
            raise NotALoop
        if is_constant and node.op != SELECT_SCATTER:
            self.rows[output] = Rows(base.name, dim, tuple(index), keep)
            return None
        _refuse_if(keep)
        self.indices[f"{output} index"] = tuple(index)
        return replace(node, kwargs={**node.kwargs, "index": Value(f"{output} index"), "in_range": True})

    def _settle(self, names: Sequence[str]) -> str:
        """Settle the role of an argument, given its names in the copies, and return its name in a step."""
        name, (copy, place) = names[0], self.homes.get(names[1], (-1, -1))
        if name in self.homes:
            self._require(names, self.homes[name][1])
        elif len(set(names)) == 1:
            self.invariants.add(name)
        elif copy == 0:
            self._require(names[1:], place)
            if (end := self.names[0][place]) is None:
                raise NotALoop
            name = f"{end} before"
            self.state[name] = end
            _refuse_if(name in self.homes or self.initial.setdefault(name, names[0]) != names[0])
        else:
            self._settle_row(names)
        return name

    def _require(self, names: Sequence[str], place: int) -> None:
        """Raise unless the names belong to one result in consecutive copies from the first one on."""
        _refuse_if([self.homes.get(name) for name in names] != [(k, place) for k in range(len(names))])

    def _settle_row(self, names: Sequence[str]) -> None:
        """Settle an argument that is another value of before the loop in each iteration."""
        _refuse_if(len(set(names)) < self.count)
        _refuse_if(any(name in self.placeholders or name in self.homes for name in names))
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
        for names in zip(*self.names, strict=True):
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
            yield from ((name, (base.name, axis, k)) for k, name in enumerate(places_of(node)) if name)
        elif node.op == SELECT and isinstance(index, int):
            yield node.name, (base.name, axis, index)


def _moving(node: Node) -> tuple[Argument, Argument]:
    """Return the arguments of a node of _MOVING that may differ between iterations."""
    if node.op in (SELECT, SELECT_SCATTER):
        return node.kwargs.get("index"), None
    return node.kwargs.get("start"), node.kwargs.get("end")
