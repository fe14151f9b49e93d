"""Sizes of axes that follow from the conditions of a model.

torch records ``x.size(2) // 2 == 1`` as a condition and the axis as free. Here the axis has the sizes 2 to 3,
and an axis that conditions leave one size is fixed.
"""

import itertools
from collections.abc import Mapping
from dataclasses import replace

from jaxlstm.programs.graph.graph import AxisRange, Graph, Input, Node, TensorType
from jaxlstm.programs.graph.rewrite import Rule, Site, rewrite
from jaxlstm.programs.sizes.guards import UNBOUNDED, shown_guard, sizes_allowed

_MOST_GUARDS = 1_000
"""More conditions narrow no axis, so that a file with many of them loads in a short time."""


def settle_sizes(graph: Graph) -> Graph:
    """Return the graph with the range of each free axis narrowed by its conditions, and with an axis fixed if
    the conditions leave one size.
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
        comparison = sizes_allowed(guard)
        if comparison is None:
            continue
        name, place, allowed = comparison
        reason = f"the condition {shown_guard(guard, graph.lines)}"
        size = sizes.get((name, place))
        if isinstance(size, int) and allowed == range(size, size + 1):
            reasons[name, place] = reason
        if not isinstance(size, str) or guard not in guards:
            continue
        if axis := _narrowed(graph, narrowed.get(size), size, allowed, reason):
            narrowed[size] = axis
    single = {name: axis for name, axis in narrowed.items() if axis.low == axis.high}
    reasons |= {key: single[size].reason for key, size in sizes.items() if size in single}
    fixed = {name: axis.low for name, axis in single.items()}
    graph = replace(
        graph,
        narrowed={name: axis for name, axis in narrowed.items() if name not in single},
        inputs=tuple(_fixed_input(declared, fixed, reasons) for declared in graph.inputs),
        ranges={name: bounds for name, bounds in graph.ranges.items() if name not in single},
    )
    return rewrite(graph, *_fixed_axes(fixed))


def _narrowed(graph: Graph, axis: AxisRange | None, name: str, allowed: range, why: str) -> AxisRange | None:
    low, high = axis[:2] if axis else graph.size_range(name)
    first, stop = max(allowed.start, low), min(allowed.stop, UNBOUNDED if high is None else high + 1)
    last = stop - 1 if stop < UNBOUNDED else None
    if (first, last) == (low, high):
        # torch has applied some conditions to the ranges that it records.
        is_reason = not axis and (low == allowed.start > 0 or stop == allowed.stop < UNBOUNDED)
        return AxisRange(first, last, why) if is_reason else axis
    return axis if first >= stop else AxisRange(first, last, why)


def _fixed_type(type_: TensorType, fixed: Mapping[str, int]) -> TensorType:
    shape = tuple(fixed.get(size, size) if isinstance(size, str) else size for size in type_.shape)
    return replace(type_, shape=shape)


def _fixed_input(declared: Input, fixed: Mapping[str, int], reasons: Mapping[tuple[str, int], str]) -> Input:
    new = {place: reason for (name, place), reason in reasons.items() if name == declared.name}
    type_ = declared.type and _fixed_type(declared.type, fixed)
    return replace(declared, type=type_, fixed={**new, **declared.fixed})


def _fixed_axes(fixed: Mapping[str, int]) -> list[Rule]:
    def with_fixed_axes(node: Node, site: Site) -> Node:
        return replace(node, types={name: _fixed_type(type_, fixed) for name, type_ in node.types.items()})

    return [with_fixed_axes] if fixed else []
