"""The assertions that the inputs are those for which the program is right."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph, Node, Size, TensorType, Value, uses_of
from jaxlstm.programs.inputs import as_arguments, bind_inputs
from jaxlstm.programs.operators.dtypes import held
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm.programs.sizes.flow import symbols
from jaxlstm.programs.sizes.guards import UNDECIDED, axes_in, python_of, require_guards, shown_guard
from jaxlstm_converters.source.syntax import trees

Axis = tuple[str, int]


def assertions(graph: Graph, bound: Mapping[str, ast.expr], checked: Set[Axis]) -> Iterator[ast.stmt]:
    """Yield assertions of the fixed sizes and constants, and of each line of the model with conditions.

    ``bound`` has the expression of each input, and ``checked`` the axes that a layer checks. A condition that
    holds for all sizes in the ranges of the axes is left out.
    """

    def size(name: str, place: int | None) -> ast.expr:
        return bound[name] if place is None else trees.item(trees.attribute(bound[name], "shape"), place)

    def add(line: str, *tests: ast.expr) -> None:
        place = "".join(char for char in ":".join(line.split(":")[:2]) if char.isprintable())[:80]
        found.setdefault(f"a condition at {place}" if place else "not covered by the export", []).extend(
            tests
        )

    found = {"fixed by the export": _fixed_by_export(graph, bound, checked)}
    axes: dict[str, list[Axis]] = {}
    for name, type_ in graph.input_types.items():
        for place, symbol in enumerate(type_.shape):
            if isinstance(symbol, str):
                axes.setdefault(symbol, []).append((name, place))
    filled = [name for name, type_ in graph.input_types.items() if _has_elements(graph, type_)]
    add("", *(trees.attribute(bound[name], "size") for name in filled))
    for symbol, group in axes.items():
        first, *others = sorted(group, key=checked.__contains__)
        reason = graph.narrowed[symbol].reason if symbol in graph.narrowed else ""
        lines = (line for guard, line in graph.lines.items() if shown_guard(guard, graph.lines) in reason)
        low, high = graph.size_range(symbol)
        low = 0 if low == 1 and not reason and first[0] in filled else low
        if (test := _in_range(size(*first), low, high)) is not None:
            add(next(lines, ""), test)
        if equal := [size(*axis) for axis in others if axis not in checked]:
            lines = (line for guard, line in graph.lines.items() if {first} < axes_in(guard) <= {*group})
            add(next(lines, ""), ast.Compare(size(*first), [ast.Eq()] * len(equal), [*equal]))
    for guard in _undecided(graph):
        add(graph.lines.get(guard, ""), python_of(guard, size))
    for why, tests in found.items():
        if tests:
            yield ast.Assert(
                ast.BoolOp(ast.And(), tests), ast.Constant(f"{why}; export an example with others")
            )


def _fixed_by_export(graph: Graph, bound: Mapping[str, ast.expr], checked: Set[Axis]) -> list[ast.expr]:
    """Return conditions that inputs are as the export fixed them, except for axes that are checked."""
    sides: dict[int, list[ast.expr]] = {}
    tests: list[ast.expr] = []
    for declared in graph.inputs:
        expression = bound[declared.name]
        if declared.type is None:
            is_equal = ast.Is() if isinstance(declared.constant, bool | None) else ast.Eq()
            tests.append(ast.Compare(expression, [is_equal], [ast.Constant(declared.constant)]))
        for axis, size in enumerate(declared.type.shape if declared.type else ()):
            if isinstance(size, int) and (declared.name, axis) not in checked:
                shape = trees.attribute(expression, "shape")
                sides.setdefault(size, []).append(trees.item(shape, axis))
    return tests + [
        ast.Compare(first, [ast.Eq()] * (len(others) + 1), [*others, ast.Constant(size)])
        for size, (first, *others) in sides.items()
    ]


def _has_elements(graph: Graph, type_: TensorType) -> bool:
    """Return True for an input of which the sizes of 1 or more axes start at 1, and all others are larger."""
    lows = [graph.size_range(size)[0] if isinstance(size, str) else size or 0 for size in type_.shape]
    is_free = any(isinstance(size, str) and low == 1 for size, low in zip(type_.shape, lows, strict=True))
    return is_free and min(lows) > 0


def _in_range(size: ast.expr, low: int, high: int | None) -> ast.expr | None:
    """Return the condition that a size is in a range; None if all sizes are."""
    if high is None:
        return ast.Compare(size, [ast.GtE()], [ast.Constant(low)]) if low else None
    if not low:
        return ast.Compare(size, [ast.LtE()], [ast.Constant(high)])
    return ast.Compare(ast.Constant(low), [ast.LtE(), ast.LtE()], [size, ast.Constant(high)])


def _undecided(graph: Graph) -> Iterator[str]:
    """Yield the guards that do not hold for all sizes in the ranges of the axes."""
    sizes = _free_sizes(graph)
    shapes = {name: tuple(sizes.get(n, n) for n in t.shape) for name, t in graph.input_types.items()}
    constants = {item.name: item.constant for item in graph.inputs if item.type is None}
    for guard in dict.fromkeys(graph.guards):
        try:
            require_guards((guard,), shapes, constants)
        except (ProgramError, NotImplementedError):  # JAX does not know the fraction of a symbol.
            yield guard


def _free_sizes(graph: Graph) -> dict[Any, Any]:
    """Return the free axes as symbols of JAX, in the ranges that the graph takes."""
    ranges = {axis: graph.size_range(axis) for axis in graph.free_axes}
    # JAX's symbols are at least 1.
    counts = {axis: (1, None if high is None else high - low + 1) for axis, (low, high) in ranges.items()}
    return {axis: n + ranges[axis][0] - 1 for axis, n in symbols(counts).items()}


def are_met(graph: Graph, types: Sequence[TensorType | None], around: Graph) -> bool:
    """Return True if a graph takes all arguments of some types in another graph."""

    def bind(*tensors: jax.Array) -> None:
        inputs, _ = bind_inputs(graph, *as_arguments(graph, tensors), guards=True)
        require_guards(graph.guards, {name: array.shape for name, array in inputs.items()}, {})

    sizes, tensors = _free_sizes(around), list[jax.ShapeDtypeStruct]()
    for type_ in types:
        shape = tuple(sizes.get(size, size) for size in type_.shape) if type_ else (None,)
        if type_ is None or any(size is None or isinstance(size, str) for size in shape):
            return False
        tensors.append(jax.ShapeDtypeStruct(shape, held(type_.dtype)))
    try:
        jax.eval_shape(bind, *tensors)
    except (ProgramError, NotImplementedError, UNDECIDED):
        return False
    return True


def checked_axes(graph: Graph) -> set[Axis]:
    """Return the axes of inputs, by name and place, whose size a layer checks itself."""
    types, found = graph.types, set()
    origins = {(name, k): {(name, k)} for name, t in graph.input_types.items() for k in range(len(t.shape))}
    for node in graph.nodes:
        for name in types.keys() & set(uses_of(node)):
            for axis in _checked(node, name, len(types[name].shape)):
                found |= origins.get((name, axis), set())
            for result, type_ in node.types.items():
                for before, after in _kept_axes(node, types[name].shape, type_.shape):
                    origins.setdefault((result, after), set()).update(origins.get((name, before), ()))
    return found


def _checked(node: Node, name: str, rank: int) -> Sequence[int]:
    """Return the axes of a value of which a layer knows the size."""
    layer, is_input = node.op.split(".")[1], node.kwargs.get("input") == Value(name)
    if match := re.fullmatch(r"conv(?:_transpose)?([123])d", layer):
        return [rank - int(match[1]) - 1] if is_input else []
    if layer == "linear" or (layer == "layer_norm" and node.kwargs.get("weight") is not None):
        return [rank - 1] if is_input else []
    # The states of a recurrent layer are checked as a whole.
    return range(rank)[-1 if is_input else 0 :] if layer.startswith(("lstm", "gru", "rnn")) else []


def _kept_axes(node: Node, before: Sequence[Size], after: Sequence[Size]) -> list[tuple[int, int]]:
    """Return the pairs of places of the axes that an operator keeps, as far as that is certain."""
    operator = find_operator(node.op)
    places = range(min(len(before), len(after)))
    if operator is not None and operator.layout in ("elementwise", "pads") and len(before) == len(after):
        return [(place, place) for place in places if before[place] == after[place]]
    if node.op == "aten.select.int" and node.kwargs["dim"] not in (-1, len(before) - 1):
        return [(len(before) - 1, len(after) - 1)]
    return []
