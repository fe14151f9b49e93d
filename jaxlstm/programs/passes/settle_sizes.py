"""Sizes that follow from the conditions and assertions of a model.

torch records ``x.size(2) // 2 == 1`` as a condition and the axis as free. Here the axis has the sizes 2 to 3,
and an axis that conditions leave one size is fixed. A number that a model reads from a tensor, such as the
largest length, is the size of an axis if torch asserts that both are equal.
"""

import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from jaxlstm.programs.graph.graph import RESULT, Argument, AxisRange, Graph, Input, Node, TensorType, Value
from jaxlstm.programs.graph.rewrite import Rule, Site, rewrite
from jaxlstm.programs.graph.values import results_of, uses_of, with_arguments
from jaxlstm.programs.sizes.guards import UNBOUNDED, shown_guard, sizes_allowed

_MOST_GUARDS = 1_000
"""More conditions narrow no axis, so that a file with many of them loads in a short time."""


def settle_sizes(graph: Graph) -> Graph:
    """Return the graph with the range of each free axis narrowed by its conditions, with an axis fixed if the
    conditions leave one size, and with the size for each number that an assertion equates with it.
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
    return rewrite(graph, *_fixed_axes(fixed), *_known_sizes(graph))


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


def _known_sizes(graph: Graph) -> list[Rule]:
    """Return the rule by which a size replaces each number that an assertion equates with it, if any.

    ``jit`` knows the size and not the number: ``torch.arange(lengths.max())`` needs it, and torch asserts
    that it is the size of an axis with which the result is combined. The assertion stays.
    """
    checks = (node for node in graph.nodes if node.op == "aten._assert_scalar.default")
    asserted = {name for node in checks for name in uses_of(node)}
    equal = _simplified(graph.nodes, asserted)
    unknown: set[str] = set()  # Numbers that depend on the values of tensors.
    # Number -> the place in the graph from which its size is known, and the size.
    sizes: dict[str, tuple[int, Argument]] = {}
    places: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        places |= dict.fromkeys(results_of(node), place)
        is_number = node.op.startswith(("_operator.", "math.", "torch.sym"))
        if node.op == "aten.item.default" or (is_number and not unknown.isdisjoint(uses_of(node))):
            unknown |= {*results_of(node)}
        if node.op == "_operator.eq" and node.name in asserted:
            args = [equal.get(a.name, a) if isinstance(a, Value) else a for a in node.args]
            numbers = [a for a in args if isinstance(a, Value) and a.name in unknown]
            other_args = [a for a in args if a not in numbers]
            if len(numbers) == 1 == len(other_args):
                start = places.get(other_args[0].name, -1) if isinstance(other_args[0], Value) else -1
                sizes.setdefault(numbers[0].name, (start, other_args[0]))

    def with_size(node: Node, site: Site) -> Node | None:
        if node.name in asserted or node.op == RESULT:
            return None

        def size_of(value: Value) -> Argument:
            start, size = sizes.get(value.name, (-1, value))
            return size if start < site.place else value

        return with_arguments(node, size_of)

    return [with_size] if sizes else []


def _simplified(nodes: Sequence[Node], asserted: Set[str]) -> dict[str, Argument]:
    """Return x for each sum ``x + min(0, n)`` where torch asserts that n is not negative."""
    checks = [node.args for node in nodes if node.op == "_operator.ge" and node.name in asserted]
    minima = [node for node in nodes if node.op == "torch.sym_min" and node.args[::-1] in checks]
    zeros = [Value(node.name) for node in minima if node.args[0] == 0]
    return {node.name: node.args[0] for node in nodes if node.op == "_operator.add" and node.args[1] in zeros}
