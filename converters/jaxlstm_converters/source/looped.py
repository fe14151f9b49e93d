"""A graph in which steps that an export repeated stand once, as a loop.

The nodes of a loop have one more call around them, of the class ``LOOP``. The first of them, ``ENTER``, gives
the state and the rows of a step. The last, ``LEAVE``, takes the state and the results after the step, and
gives the last state and the stacked results. This cannot be a rule of ``rewrite``, which sees one node: a
loop replaces many nodes at once, and where it starts and ends depends on all of them.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from jaxlstm.programs.graph.graph import Graph, ModuleCall, Node, TensorType, Value, same_sizes
from jaxlstm.programs.graph.rewrite import rewrite
from jaxlstm.programs.graph.values import (
    live_graph,
    renamed,
    results_of,
    used_values,
    uses_of,
    values_in,
    with_arguments,
    with_names,
)
from jaxlstm.programs.passes.loop_copies import SELECT, LoopCopies, NotALoop
from jaxlstm.programs.passes.repeat_to_scan import FEWEST_COPIES, MOST_FAILURES, MOST_FAILURES_AT_A_NODE
from jaxlstm.programs.passes.repetitions import repetitions
from jaxlstm_converters.source import names
from jaxlstm_converters.source.calls import ENTER, LEAVE, LOOP, is_under, line_of
from jaxlstm_converters.source.completed import completed
from jaxlstm_converters.source.spelling.layers import changes_in_training
from jaxlstm_converters.source.stacks import FEWEST, stacked

_MADE = ("aten.sym_size", "aten.zeros", "aten.new_zeros", "aten.full")
_JOINS = ("aten.stack.default", "aten.cat.default")


def looped_graph(graph: Graph, held: Mapping[str, TensorType]) -> Graph:
    """Return the graph with loops."""
    current = live_graph(rewrite(graph, stacked, types=held))
    current = current.with_nodes(_with_zeros_first(current.nodes))
    while (found := _with_loop(current, {**held, **current.types})) is not None:
        graph = current = live_graph(found)
    return graph


def _with_loop(graph: Graph, types: Mapping[str, TensorType]) -> Graph | None:
    """Return the graph with one more loop, or None if there is none."""
    refused: list[tuple[int, int]] = []
    for start, end, period in repetitions(graph.nodes, FEWEST):
        around = sum(low <= start and end <= high for low, high in refused)
        if around < MOST_FAILURES_AT_A_NODE and len(refused) < MOST_FAILURES:
            if (found := _rolled(graph, types, start, end, period)) is not None:
                return found
            refused.append((start, end))
    return None


def _with_zeros_first(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes with the zeros in front that a cell makes as its state in the first step only."""
    late = {name for node in nodes for name in results_of(node)}
    early = set()
    for node in nodes:
        if node.op.startswith(_MADE) and late.isdisjoint(uses_of(node)):
            early.add(node.name)
            late.difference_update(results_of(node))
    return sorted(nodes, key=lambda node: node.name not in early)


def _rolled(graph: Graph, types: Mapping[str, TensorType], start: int, end: int, period: int) -> Graph | None:
    """Return the graph with a loop in the place of repeated nodes, or None if they are none."""
    # A run may start with a step that differs from others, or with nodes that look like the end of a step.
    for skipped in (start, start + period):
        cuts: dict[int, list[int]] = {}
        for first in range(skipped, min(skipped + period, end - 2 * period + 1)):
            keys = [
                {call.key for node in graph.nodes[at : at + period] for call in node.calls}
                for at in (first, first + period)
            ]
            cuts.setdefault(len(keys[0] & keys[1]), []).append(first)
        # A step that ends in a module would cut its method in two.
        for _, places in sorted(cuts.items()):
            found = []
            for first in places:
                whole, count = completed(graph, first, end, period)
                with contextlib.suppress(NotALoop):
                    found.append(_Unrolled(whole, types, first, period, count))
            if found:
                best = min(found, key=lambda unrolled: (-unrolled.count, len(unrolled.loop.state)))
                return best.graph() if best.is_loop() else None
    return None


class _Unrolled:
    """Steps among the nodes of a graph."""

    def __init__(
        self, graph: Graph, types: Mapping[str, TensorType], start: int, period: int, count: int
    ) -> None:
        if count < FEWEST:
            raise NotALoop
        self.count = count
        copies = [graph.nodes[at : at + period] for at in range(start, start + count * period, period)]
        lines = ([_lines(node) for node in copy] for copy in copies)
        first = next(lines)
        # Only copies of the same lines of the user's code are a loop there.
        if any(node.op in (ENTER, LEAVE) for node in copies[0]) or any(other != first for other in lines):
            raise NotALoop
        self._is_plain = any(map(changes_in_training, copies[0]))
        self._graph, self._initial = _with_copy_before(graph, start, period)
        self._types = {**types, **self._graph.types}
        self.loop = loop = LoopCopies(self._graph, start, period, count + 2).loop()
        self._calls = _calls_around([node.calls for copy in copies for node in copy if node.calls])
        self._order = _order([rows.places for rows in loop.rows.values()])
        # Equal rows have the name of the last of them.
        self._rows = {rows: name for name, rows in loop.rows.items()}
        self._stacked: dict[str, str] = {}  # result of a step -> its name in the user's code
        states = [(types.get(self._initial[name]), types.get(end)) for name, end in loop.state.items()]
        is_same = all(a and b and a.dtype == b.dtype and same_sizes(a, b) for a, b in states)
        if not (self._calls and self._order and is_same) or loop.lists or loop.indices:
            raise NotALoop

    def is_loop(self) -> bool:
        """Return False for a few equal operators, such as the layers of queries, keys and values."""
        joined = {tuple(uses_of(node)) for node in self._graph.nodes if node.op in _JOINS}
        is_joined = not joined.isdisjoint(map(tuple, self.loop.collected.values()))
        return bool(self.loop.state) or self.count >= FEWEST_COPIES or is_joined

    def graph(self) -> Graph:
        """Return the graph with a loop in their place."""
        loop, graph = self.loop, self._graph
        after = [self._joined(node) for node in graph.nodes[loop.end :]]
        used = used_values(graph.with_nodes(after))
        lasts, parts = dict(loop.last), []
        for first, items in loop.collected.items():
            if items[-1] in used and used.isdisjoint(items[:-1]) and first in loop.state.values():
                lasts[first] = items[-1]
            else:
                parts += self._parts(first, items, used)
        enter, leave = self._enter(), self._leave(lasts)
        body = [node for node in loop.nodes if node is not None]
        inner = {name: f"{name} state" for name in loop.state} | {
            name: f"{self._rows[rows]} row" for name, rows in loop.rows.items()
        }
        inner |= {name: f"{name} step" for node in body for name in results_of(node)}
        steps = [enter, *(renamed(node, inner) for node in body), with_names(leave, inner)]
        inside = [self._inside(node, enter.name) for node in steps]
        before = [self._without_cell(node) for node in graph.nodes[: loop.start]]
        return graph.with_nodes((*before, *inside, *parts, *after))

    def _enter(self) -> Node:
        """Return the first node of the loop."""
        loop, slices = self.loop, []
        for rows in self._rows:
            shape, low, high = self._types[rows.base].shape, min(rows.places), max(rows.places) + 1
            is_end = high in (0, shape[rows.axis])
            slices.append((rows.axis % len(shape), low, None if is_end else high, rows.keep))
        kwargs = {
            "init": tuple(Value(self._initial[name]) for name in loop.state),
            "rows": tuple(Value(rows.base) for rows in self._rows),
            "slices": tuple(slices),
            "count": loop.count,
            "reverse": self._order < 0,
            "is_plain": self._is_plain,
        }
        states = {f"{name} state": self._types[end] for name, end in loop.state.items()}
        rows = {f"{name} row": self._types[name] for name in self._rows.values()}
        key = f"loop of {next(node.name for node in loop.nodes if node)}"
        return Node(key, ENTER, (), kwargs, (tuple(states), tuple(rows)), types=states | rows)

    def _leave(self, lasts: Mapping[str, str]) -> Node:
        """Return the last node of the loop; ``lasts`` has the names of the last state that are used."""
        states = {lasts.get(end, f"{end} last"): end for end in self.loop.state.values()}
        stacked = {f"{name} stacked": self._with_steps(self._types[name]) for name in self._stacked}
        kwargs = {
            "ends": tuple(map(Value, states.values())),
            "results": tuple(map(Value, self._stacked)),
            "names": tuple(self._stacked.values()),
        }
        types = {name: self._types[end] for name, end in states.items()} | stacked
        return Node(
            f"leave {' '.join(types)}", LEAVE, (), kwargs, (tuple(states), tuple(stacked)), types=types
        )

    def _with_steps(self, type_: TensorType) -> TensorType:
        texts = (str(self.loop.count), *type_.expressions) if type_.expressions else ()
        return TensorType(type_.dtype, (self.loop.count, *type_.shape), texts)

    def _parts(self, first: str, items: Sequence[str], used: set[str]) -> Iterator[Node]:
        """Yield the nodes that take single results of the steps from the stacked ones."""
        for place, name in enumerate(items[:: self._order]):
            if name in used:
                self._stacked.setdefault(first, "")
                kwargs = {"self": Value(f"{first} stacked"), "dim": 0, "index": place}
                types = {name: self._types[name]}
                yield Node(name, "aten.select.int", (), kwargs, (name,), self._calls, types)

    def _joined(self, node: Node) -> Node:
        """Return a node, with the stacked results of a loop in the place of a list of all of them."""
        tensors = node.kwargs.get("tensors") if node.op in _JOINS else None
        listed = tuple(values_in(tensors))[:: self._order]
        first = next((first for first, items in self.loop.collected.items() if items == listed), None)
        if first is None:
            return node
        line = line_of(node, self._calls[-1].path)
        taken = {"torch", "F", *self._stacked.values()}
        found = (name for name in names.arguments(line) if name not in taken)
        self._stacked[first] = next(found, "")
        results = Value(f"{first} stacked")
        op, dim = node.op, node.kwargs.get("dim", 0)
        if self._is_plain or op != "aten.stack.default" or dim not in (0, 1):
            return replace(node, kwargs={**node.kwargs, "tensors": results})
        # A scan stacks its results itself.
        return replace(node, op="aten.transpose.int", kwargs={"self": results, "dim0": 0, "dim1": dim})

    def _inside(self, node: Node, key: str) -> Node:
        """Return a node with the call of the loop."""
        depth = len(self._calls)
        loop = ModuleCall(key, self._calls[-1].path, LOOP, "")
        return replace(node, calls=(*(node.calls[:depth] or self._calls), loop, *node.calls[depth:]))

    def _without_cell(self, node: Node) -> Node:
        """Return a node before the loop; the zeros that a cell makes in the first step are not the cell's."""
        is_initial = not {*self._initial.values()}.isdisjoint(results_of(node))
        is_inner = [call.key for call in node.calls[: len(self._calls)]] == [call.key for call in self._calls]
        is_cells = is_initial and is_inner and node.op.startswith(_MADE)
        return replace(node, calls=self._calls) if is_cells else node


def _lines(node: Node) -> list[tuple[str, str]]:
    """Return the module and the line of each call around a node; the first row may come from another line."""
    return [(call.path, "" if node.op == SELECT else call.line) for call in node.calls]


def _order(places: Sequence[tuple[int, ...]]) -> int:
    """Return 1 for steps through ascending rows, -1 for descending ones, and 0 for any other order."""
    orders = {after - before for run in places for before, after in itertools.pairwise(run)}
    crosses_zero = any(min(run) < 0 <= max(run) for run in places)
    return 0 if crosses_zero or orders not in (set(), {1}, {-1}) else min(orders, default=1)


def _calls_around(calls: Sequence[tuple[ModuleCall, ...]]) -> tuple[ModuleCall, ...]:
    """Return the calls that are common to all nodes, and of which the last module has all others."""
    around = calls[0] if calls else ()
    for other in calls:
        pairs = itertools.takewhile(lambda pair: pair[0].key == pair[1].key, zip(around, other, strict=False))
        around = tuple(call for call, _ in pairs)
    inner = [other[len(around)] for other in calls if len(other) > len(around)]
    while around and not all(is_under(call.path, around[-1].path) for call in inner):
        around = around[:-1]
    return around


def _with_copy_before(graph: Graph, start: int, period: int) -> tuple[Graph, Mapping[str, str]]:
    """Return the graph with another step before the first, and name of a result of it -> initial state.

    The first step has the results of the step before in the place of its initial states.
    """
    nodes = graph.nodes
    first, second = nodes[start : start + period], nodes[start + period : start + 2 * period]
    own = {name for node in first for name in results_of(node)}
    initial: dict[str, str] = {}
    steps = []
    for node, later in zip(first, second, strict=True):
        used = []
        for name, other in zip(uses_of(node), uses_of(later), strict=True):
            is_state = other in own and name != other
            used.append(f"{other} before" if is_state else name)
            if is_state and (name in own or initial.setdefault(used[-1], name) != name):
                raise NotALoop
        values = iter(used)
        steps.append(with_arguments(node, lambda _, values=values: Value(next(values))))
    before = [renamed(node, {name: f"{name} before" for name in own}) for node in first]
    return graph.with_nodes((*nodes[:start], *before, *steps, *nodes[start + period :])), initial
