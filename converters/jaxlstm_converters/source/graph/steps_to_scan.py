"""A graph in which steps that an export repeated stand once, as a scan.

The steps are a loop of the user's code, from the first one to the last: the same lines in the same
modules. A scan whose results are lists is written as a Python loop. This cannot be a rule of ``rewrite``,
which sees one node: a loop replaces many nodes at once, and where it starts and ends depends on all of them.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from jaxlstm.programs.graph.graph import Graph, ModuleCall, Node, TensorType, Value, same_sizes
from jaxlstm.programs.graph.rewrite import Site, rewrite, with_functions
from jaxlstm.programs.graph.values import live_graph, results_of, uses_of, values_in, with_names
from jaxlstm.programs.passes.loop_copies import SELECT, LoopCopies, NotALoop
from jaxlstm.programs.passes.repeat_to_scan import (
    FEWEST_COPIES,
    MOST_FAILURES,
    MOST_FAILURES_AT_A_NODE,
    scan_nodes,
)
from jaxlstm.programs.passes.repetitions import repetitions
from jaxlstm.programs.passes.rows_to_slices import STACK, place_in, rows_to_slices
from jaxlstm_converters.source.graph.calls import SCAN, is_under
from jaxlstm_converters.source.graph.last_step import with_last_step
from jaxlstm_converters.source.graph.stacks import FEWEST, stacked
from jaxlstm_converters.source.spelling.layers import changes_in_training

_MADE = ("aten.sym_size", "aten.zeros", "aten.new_zeros", "aten.full")
_JOINS = ("aten.stack.default", "aten.cat.default")


def steps_to_scan(graph: Graph, held: Mapping[str, TensorType]) -> Graph:
    """Return the graph with scans in the place of its loops, also in its functions."""
    current = live_graph(rewrite(graph, stacked, types=held))
    current = current.with_nodes(_with_zeros_first(current.nodes))
    while (found := _with_loop(current, {**held, **current.types})) is not None:
        graph = current = live_graph(found)
    sizes = {"ranges": graph.ranges, "narrowed": graph.narrowed}
    inside = partial(with_functions, change=lambda step: steps_to_scan(replace(step, **sizes), {}))
    return rewrite(graph, lambda node, site: inside(node))


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

        def shared(first: int) -> int:
            """Return the number of the calls of modules in a step and in the next one."""
            copies = (graph.nodes[at : at + period] for at in (first, first + period))
            keys = [{call.key for node in copy for call in node.calls} for copy in copies]
            return len(keys[0] & keys[1])

        # A step that ends in a module would cut its method in two.
        firsts = sorted(range(skipped, min(skipped + period, end - 2 * period + 1)), key=shared)
        for _, places in itertools.groupby(firsts, key=shared):
            found = []
            for first in places:
                whole, count = with_last_step(graph, first, end, period)
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
        if any(other != first for other in lines):
            raise NotALoop
        self._is_plain = any(map(changes_in_training, copies[0]))
        self._graph, self._types = graph, {**types, **graph.types}
        self.loop = loop = LoopCopies(graph, start, period, count).loop()
        self._calls = _calls_around([node.calls for copy in copies for node in copy if node.calls])
        self._order = self._order_of_rows()
        states = [(self._types.get(loop.initial[name]), types.get(end)) for name, end in loop.state.items()]
        is_same = all(a and b and a.dtype == b.dtype and same_sizes(a, b) for a, b in states)
        if not (self._calls and self._order and is_same) or loop.lists or loop.indices:
            raise NotALoop

    def is_loop(self) -> bool:
        """Return False for a few equal operators, such as the layers of queries, keys and values."""
        joined = {tuple(uses_of(node)) for node in self._graph.nodes if node.op in _JOINS}
        is_joined = not joined.isdisjoint(map(tuple, self.loop.collected.values()))
        return bool(self.loop.state) or self.count >= FEWEST_COPIES or is_joined

    def graph(self) -> Graph:
        """Return the graph with a scan in their place."""
        loop, graph = self.loop, self._graph
        before = [self._without_cell(node) for node in graph.nodes[: loop.start]]
        ends = {end: loop.collected.get(end, (end,))[-1] for end in loop.state.values()}
        last = {end: loop.last.get(end, f"{name} last") for end, name in ends.items()}
        after = [*graph.nodes[loop.end :], graph.result]
        used = {name for node in after if node.op not in _JOINS for name in uses_of(node)}
        # A result of the last step is the last state, unless it is one of several results.
        collected = ((items, last.get(end)) for end, items in loop.collected.items())
        same = [(items, name) for items, name in collected if name and used.isdisjoint(items[:-1])]

        def with_states(node: Node) -> Node:
            uses = {*uses_of(node)}
            names = {items[-1]: name for items, name in same if uses.isdisjoint(items[:-1])}
            return node if uses.isdisjoint(names) else with_names(node, names)

        *after, result = map(with_states, after)
        # The results have the order of the rows.
        rows = {name: rows._replace(places=rows.places[:: self._order]) for name, rows in loop.rows.items()}
        self._collected = {name: items[:: self._order] for name, items in loop.collected.items()}
        loop = replace(loop, last=last, rows=rows, collected=self._collected)
        calls = tuple(call._replace(line="") for call in self._calls)
        inside = list[Node]()
        for node in scan_nodes(loop, self._types, rows_listed=False, listed=self._is_plain):
            kwargs = {**node.kwargs, "reverse": self._order < 0} if node.op == SCAN else node.kwargs
            around = node.calls[: len(calls)] or (self._calls if node.op == SELECT else calls)
            inside.append(replace(node, kwargs=kwargs, calls=around))
        whole = graph.with_nodes((*before, *inside, *after), result)
        return rewrite(whole, self._concatenated, _sliced, types=self._types)

    def _concatenated(self, node: Node, site: Site) -> Node | None:
        """Let a concatenation of all results of a scan take them as they are stacked."""
        found = {items: name for name, items in self._collected.items()}
        name = found.get(tuple(values_in(node.kwargs.get("tensors"))))
        if self._is_plain or name is None or node.op != _JOINS[1]:
            return None
        return replace(node, kwargs={**node.kwargs, "tensors": Value(f"{name} stacked")})

    def _order_of_rows(self) -> int:
        """Return 1 for steps through ascending rows, -1 for descending ones, and 0 for any other order."""
        orders = set[int]()
        for rows in self.loop.rows.values():
            type_ = self._types.get(rows.base)
            places = [place_in(self._graph, type_, rows.axis, place) for place in rows.places]
            pairs = itertools.pairwise(places)
            orders.update(0 if a is None or b is None else b - a for a, b in pairs)
        return min(orders, default=1) if orders in (set(), {1}, {-1}) else 0

    def _without_cell(self, node: Node) -> Node:
        """Return a node before the loop; the zeros that a cell makes in the first step are not the cell's."""
        is_initial = not {*self.loop.initial.values()}.isdisjoint(results_of(node))
        outer, inner = node.calls[: len(self._calls)], node.calls[len(self._calls) :]
        is_inner = bool(inner) and [call.key for call in outer] == [call.key for call in self._calls]
        is_cells = is_initial and is_inner and node.op.startswith(_MADE)
        return replace(node, calls=self._calls) if is_cells else node


def _sliced(node: Node, site: Site) -> list[Node] | None:
    """Let a stack of consecutive rows of one tensor take a slice of it."""
    made = rows_to_slices(node, site) if node.op == STACK else None
    return None if made and "tensors" in made[-1].kwargs else made


def _lines(node: Node) -> list[tuple[str, str]]:
    """Return the module and the line of each call around a node; the first row may come from another line."""
    return [(call.path, "" if node.op == SELECT else call.line) for call in node.calls]


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
