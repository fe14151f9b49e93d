"""The axes of the inputs that are free in fact: conditions of the model may leave an axis few sizes, or one.

torch records ``x.size(2) // 2 == 1`` as a condition and the axis as free. Here the axis has the sizes 2 to 3.
"""

import itertools
from collections.abc import Mapping
from dataclasses import replace

from jaxlstm.programs.graph import AxisRange, Graph, Input, TensorType
from jaxlstm.programs.guards import UNBOUNDED, shown_guard, sizes_allowed

_MOST_GUARDS = 1_000
"""More conditions narrow no axis, so that a file with many of them loads in a short time."""


def settle_axes(graph: Graph) -> Graph:
    """Return the graph with the range of each free axis narrowed by its conditions, and an axis fixed if the
    conditions leave one size.
    """
    sizes = {
        (declared.name, place): size
        for declared in graph.inputs
        if declared.type
        for place, size in enumerate(declared.type.shape)
    }
    narrowed: dict[str, AxisRange] = {}
    reasons: dict[tuple[str, int], str] = {}
    guards = frozenset(graph.guards)
    for guard in itertools.islice(dict.fromkeys((*graph.guards, *graph.lines)), _MOST_GUARDS):
        found = sizes_allowed(guard)
        if found is None:
            continue
        name, place, allowed = found
        why = f"the condition {shown_guard(guard, graph.lines)}"
        size = sizes.get((name, place))
        if isinstance(size, int) and allowed == range(size, size + 1):
            reasons[name, place] = why
        if not isinstance(size, str) or guard not in guards:
            continue
        if axis := _narrowed(graph, narrowed.get(size), size, allowed, why):
            narrowed[size] = axis
    single = {name: axis for name, axis in narrowed.items() if axis.low == axis.high}
    reasons |= {key: single[size].reason for key, size in sizes.items() if size in single}
    graph = replace(graph, narrowed={name: axis for name, axis in narrowed.items() if name not in single})
    return _fix(graph, {name: axis.low for name, axis in single.items()}, reasons)


def _narrowed(graph: Graph, axis: AxisRange | None, name: str, allowed: range, why: str) -> AxisRange | None:
    low, high = axis[:2] if axis else graph.size_range(name)
    first, stop = max(allowed.start, low), min(allowed.stop, UNBOUNDED if high is None else high + 1)
    last = stop - 1 if stop < UNBOUNDED else None
    if (first, last) == (low, high):
        # torch has applied some conditions to the ranges that it records.
        is_reason = not axis and (low == allowed.start > 0 or stop == allowed.stop < UNBOUNDED)
        return AxisRange(first, last, why) if is_reason else axis
    return axis if first >= stop else AxisRange(first, last, why)


def _fix(graph: Graph, single: Mapping[str, int], reasons: Mapping[tuple[str, int], str]) -> Graph:
    """Return the graph with the sizes of axes that have only one, and with reasons."""

    def fixed(type_: TensorType) -> TensorType:
        return replace(type_, shape=tuple(single.get(n, n) if isinstance(n, str) else n for n in type_.shape))

    def fix_input(declared: Input) -> Input:
        new = {place: why for (name, place), why in reasons.items() if name == declared.name}
        type_ = fixed(declared.type) if declared.type else None
        return replace(declared, type=type_, fixed={**new, **declared.fixed})

    nodes = [
        replace(node, types={name: fixed(type_) for name, type_ in node.types.items()})
        for node in graph.nodes
    ]
    return replace(
        graph,
        inputs=tuple(map(fix_input, graph.inputs)),
        nodes=tuple(nodes),
        ranges={name: bounds for name, bounds in graph.ranges.items() if name not in single},
    )
