"""Python loops, whose steps an export repeats, as a scan.

Consecutive copies of the same nodes become one ``higher_order.scan`` if each value that a copy uses has one
of the roles of :class:`~jaxlstm.programs.passes.loop_copies.Loop`; any other loop stays as it is. The first
and the last copy stay too: an export leaves out nodes that these two do not need. This cannot be a rule of
``rewrite``, which sees one node.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxlstm.programs.graph.graph import Argument, Graph, Input, Node, TensorType, Tree, Value, same_sizes
from jaxlstm.programs.graph.rewrite import rewrite, with_functions
from jaxlstm.programs.graph.values import functions_of, live_graph, renamed, results_of, with_names
from jaxlstm.programs.passes.loop_copies import SELECT, SLICE, Loop, LoopCopies, NotALoop, Rows
from jaxlstm.programs.passes.repetitions import repetitions
from jaxlstm.programs.passes.rows_to_slices import STACK, place_in, rows_to_slices

FEWEST_COPIES = 16
"""Number of copies from which a loop is worth a scan."""
MOST_FAILURES = 50
"""The search ends after this number of repetitions that it refuses."""
MOST_FAILURES_AT_A_NODE = 4

Types = Mapping[str, TensorType]


def repeat_to_scan(graph: Graph, held_types: Types) -> Graph:
    """Return a graph with scans instead of its loops, also in its functions.

    ``held_types`` has the types of parameters, buffers and constants.
    """
    if any(functions_of(node) for node in graph.nodes):
        graph = rewrite(
            graph, lambda node, site: with_functions(node, lambda inner: repeat_to_scan(inner, {}))
        )
    types = {**held_types, **graph.types}
    loops = _loops(graph, types)
    if not loops:
        return graph
    nodes, place, added = [], 0, set[str]()
    for loop in sorted(loops, key=lambda loop: loop.start):
        is_regular = _is_regular(graph, loop, types)
        new = [*scan_nodes(loop, types, rows_listed=not is_regular, listed=not is_regular)]
        nodes += [*graph.nodes[place : loop.start], *new]
        added.update(node.name for node in new)
        place = loop.end
    scanned = graph.with_nodes((*nodes, *graph.nodes[place:]))
    return live_graph(rewrite(scanned, rows_to_slices, types=held_types), lambda node: node.name not in added)


def _loops(graph: Graph, types: Types) -> list[Loop]:
    loops: list[Loop] = []
    in_loop = np.zeros(len(graph.nodes), bool)
    refused = np.zeros(len(graph.nodes), int)
    failures = 0
    for start, end, period in repetitions(graph.nodes, FEWEST_COPIES):
        free = start + np.flatnonzero(~in_loop[start:end])
        start, count = (int(free[0]), len(free) // period) if free.size else (start, 0)
        copies = slice(start, start + period * count)
        if count < FEWEST_COPIES or in_loop[copies].any() or refused[copies].min() >= MOST_FAILURES_AT_A_NODE:
            continue
        try:
            loop = LoopCopies(graph, start + period, period, count - 2).loop()
            _require_places(graph, loop, types)
        except NotALoop:
            refused[copies] += 1
            failures += 1
            if failures == MOST_FAILURES:
                break
            continue
        loops.append(loop)
        in_loop[copies] = True
    return loops


def _require_places(graph: Graph, loop: Loop, types: Types) -> None:
    """Raise unless an index that moves with the steps is known to lie within its tensor in all of them."""
    for node in loop.nodes:
        index = node.kwargs.get("index") if node else None
        if node and isinstance(index, Value) and index.name in loop.indices:
            base, axis, places = node.kwargs["self"], node.kwargs.get("dim", 0), loop.indices[index.name]
            type_ = types.get(loop.initial.get(base.name, base.name)) if isinstance(base, Value) else None
            steps = {after - before for before, after in itertools.pairwise(places)}
            if len(steps) != 1 or None in {place_in(graph, type_, axis, place) for place in places}:
                raise NotALoop


def _is_regular(graph: Graph, loop: Loop, types: Types) -> bool:
    """Return True if the values of a loop are known to have the same types in all steps."""
    for rows in loop.rows.values():
        base = types.get(rows.base)
        if None in {place_in(graph, base, rows.axis, place) for place in rows.places}:
            return False
    states = ((loop.initial[name], end) for name, end in loop.state.items())
    groups = [*states, *loop.lists.values(), *loop.collected.values(), *zip(loop.rows)]
    for first, *others in ([types.get(name) for name in names] for names in groups):
        # A size such as u0 depends on values.
        if first is None or any(re.search(r"\bu\d", str(x)) for x in (*first.shape, *first.expressions)):
            return False
        if any(o is None or first.dtype != o.dtype or not same_sizes(first, o) for o in others):
            return False
    return True


def scan_nodes(loop: Loop, types: Types, *, rows_listed: bool, listed: bool) -> Iterator[Node]:
    """Yield the nodes that take the rows of the steps, the scan, and the nodes that take its results apart.

    The types may differ from step to step in lists: of rows if ``rows_listed``, of results if ``listed``.
    """

    def rows_of(name: str) -> str:  # Several loops may take the rows of one tensor.
        return f"{name} in loop {loop.start}"

    renames = {name: f"{name} constant" for node in loop.constant for name in results_of(node)}
    yield from (renamed(node, renames) for node in loop.constant)
    xs: dict[str, Argument] = {name: tuple(map(Value, items)) for name, items in loop.lists.items()}
    names = {rows: name for name, rows in loop.rows.items()}
    for rows, name in names.items():
        row_nodes = [_row(f"{rows_of(name)} {k}", rows, k, types.get(name)) for k in range(loop.count)]
        yield from (with_names(node, renames) for node in row_nodes)
        xs[name] = tuple(Value(node.name) for node in row_nodes)
    if not rows_listed:
        for name, items in xs.items():
            yield _node(rows_of(name), STACK, _stacked(name, loop, types), tensors=items, dim=0)
        xs = {name: Value(rows_of(name)) for name in xs}
    for name, places in loop.indices.items():
        xs[name], step = Value(rows_of(name)), places[1] - places[0]
        bounds = {"start": places[0], "end": places[-1] + step, "step": step}
        yield _node(rows_of(name), "aten.arange.start_step", None, **bounds)
    stacked = {f"{name} stacked": _stacked(name, loop, types) for name in loop.collected if not listed}
    result_types = {last: types[end] for end, last in loop.last.items() if end in types}
    result_types |= {item: types[item] for items in loop.collected.values() for item in items if listed}
    outputs = (*map(loop.last.get, loop.state.values()), *(stacked or loop.collected.values()))
    invariants = sorted(loop.invariants)
    states, values = (tuple(map(Value, names)) for names in (loop.initial.values(), invariants))
    step = _step(loop, (*loop.state, *xs, *invariants), types)
    kwargs = {"steps": loop.count, "listed": listed}
    name, args = f"{step.nodes[0].name} scan", (step, states, tuple(xs.values()), values)
    yield Node(name, "higher_order.scan", args, kwargs, outputs, types=result_types | stacked)
    for name, items in loop.collected.items():
        for place, item in enumerate(items if not listed else ()):
            yield _node(item, SELECT, types[item], self=Value(f"{name} stacked"), dim=0, index=place)


def _step(loop: Loop, inputs: Sequence[str], types: Types) -> Graph:
    """Return the function of a step, of states, rows and the values that are the same in all steps."""
    names = {rows: name for name, rows in loop.rows.items()}
    twins = {name: names[rows] for name, rows in loop.rows.items()}
    results = (*loop.state.values(), *loop.collected)
    return Graph(
        inputs=tuple(Input(name, types.get(loop.initial.get(name, name))) for name in inputs),
        nodes=tuple(with_names(node, twins) for node in loop.nodes if node is not None),
        outputs=tuple(Value(twins.get(name, name)) for name in results),
        in_tree=Tree("tuple"),
        out_tree=Tree("tuple"),
    )


def _stacked(name: str, loop: Loop, types: Types) -> TensorType:
    return types[name].with_axis(0, loop.count, inserted=True)


def _row(name: str, rows: Rows, place: int, type_: TensorType | None) -> Node:
    """Return the node that takes the row of a step."""
    index, part = rows.places[place], {"self": Value(rows.base), "dim": rows.axis}
    if rows.keep:
        return _node(name, SLICE, type_, **part, start=index, end=index + 1)
    return _node(name, SELECT, type_, **part, index=index)


def _node(name: str, op: str, type_: TensorType | None, **kwargs: Argument) -> Node:
    return Node(name, op, (), kwargs, (name,), types={name: type_} if type_ else {})
