"""Run the nodes of a graph, one after the other, on arrays or on JAX's tracers."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.export
import numpy as np

from jaxlstm.programs.acceptance import AcceptedGraph
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Node, Value, named_results, place_of, results_of, uses_of
from jaxlstm.programs.guards import UNDECIDED
from jaxlstm.programs.operators.dtypes import doubles_by_default, held
from jaxlstm.programs.operators.registry import Operator, Options
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.scanned import Row, RunNode, join_rows, run_scan
from jaxlstm.programs.size_rules import run_unknown, selected
from jaxlstm.programs.unknown_sizes import SIZE_OF, Prefix, UnprovenError, is_among

Values = dict[str, Any]

# The exceptions of an operator on arguments that it cannot take, or whose result does not fit into memory.
_FAILURES = (
    *(TypeError, ValueError, IndexError, ArithmeticError, NotImplementedError),
    *(MemoryError, jax.errors.JaxRuntimeError, UNDECIDED),
)

# The exceptions of JAX where Python needs the value of a traced array, such as a size.
_UNKNOWN = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    UnprovenError,
)


def run_nodes(
    accepted: AcceptedGraph,
    values: Values,
    options: Options,
    record: Callable[[Node, Any], None] | None = None,
) -> None:
    """Run all nodes, loops as scans where values are traced; ``values`` holds all values by name.

    ``record`` is called with each node and its result, so that loops run node by node.
    """
    index = 0
    while index < len(accepted.graph.nodes):
        loop = None if record else accepted.loops.get(index)
        if loop is not None and run_scan(loop, values, _body_runner(accepted, index, options)):
            index = loop.end
            continue
        result = _run_node(accepted, index, values, options)
        if record is not None:
            record(accepted.graph.nodes[index], result)
        index += 1


def _body_runner(accepted: AcceptedGraph, start: int, options: Options) -> RunNode:
    """Return the function that runs a node of the loop at an index."""

    def run(offset: int, node: Node, values: Values) -> None:
        _run(node, accepted.operators[start + offset], values, {}, options)
        _require_no_size_assertions(values)

    return run


def _require_no_size_assertions(values: Values) -> None:
    """Raise if the body of a loop or a subgraph asserts a size, which its caller would not see."""
    if any(name.startswith(SIZE_OF) for name in values):
        raise ProgramError(
            "node-failed",
            "jit does not know a size that a loop or branch fixed. Call the program outside of jit",
        )


def _run_node(accepted: AcceptedGraph, index: int, values: Values, options: Options) -> Any:
    node, operator = accepted.graph.nodes[index], accepted.operators[index]
    functions = {
        place: functools.partial(_run_subgraph, subgraph, options)
        for place in range(len(node.args))
        if (subgraph := accepted.subgraphs.get((index, place)))
    }
    try:
        return _run(node, operator, values, functions, options)
    except ProgramError as error:
        if node.op not in ASSERTIONS:
            raise
        raise ProgramError(error.code, f"{error.message}; got {_asserted(accepted, node, values)}") from error


def _asserted(accepted: AcceptedGraph, assertion: Node, values: Values) -> str:
    """Return the values that the condition of an assertion compares."""
    makers = {name: node for node in accepted.graph.nodes for name in results_of(node)}
    names, compare = list(uses_of(assertion)), ("all", "eq", "ge", "gt", "le", "lt", "ne")
    while names and (maker := makers.get(names[0])) and maker.op.split(".")[1] in compare:
        names = [name for name in uses_of(maker) if name not in accepted.graph.constants]
    return " and ".join(str(np.asarray(values[name]).tolist())[:100] for name in names)


def _run(
    node: Node,
    operator: Operator,
    values: Values,
    functions: Mapping[int, Callable[..., Any]],
    options: Options,
) -> Any:
    """Run a node and return its result; ``functions`` holds its arguments that are graphs, by place."""
    with doubles_by_default(any(type_.dtype.char in "dD" for type_ in node.types.values())):
        result = _call(node, operator, values, functions, options)
    if not node.with_gradient:
        result = jax.tree.map(_without_gradient, result)
    values.update(named_results(node, result))
    for name, type_ in node.types.items():
        if name in values:
            shape = tuple(options.sizes.get(size) if isinstance(size, str) else size for size in type_.shape)
            if isinstance(values[name], Prefix) and (size := shape[values[name].axis]) is not None:
                values[SIZE_OF + name] = values[name].count.number() == size
                values[name] = values[name].at_size(size)
            _require_type(node, values[name], type_.dtype, shape, options)
    return result


def _run_subgraph(accepted: AcceptedGraph, options: Options, *operands: Any) -> tuple[Any, ...]:
    """Run a graph that is the argument of an operator, and return its results."""
    names = [declared.name for declared in accepted.graph.inputs]
    values = dict(zip(names, operands, strict=True))
    run_nodes(accepted, values, options)
    _require_no_size_assertions(values)
    return tuple(resolve(output, values) for output in accepted.graph.outputs)


def _without_gradient(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf


def resolve(argument: Argument, values: Mapping[str, Any]) -> Any:
    """Return an argument in which each name of a value is replaced by the value."""
    if isinstance(argument, Value):
        value = values[argument.name]
        return value.array() if isinstance(value, Row) else value
    if isinstance(argument, tuple):
        return tuple(resolve(item, values) for item in argument)
    return argument


def _call(
    node: Node,
    operator: Operator,
    values: Values,
    functions: Mapping[int, Callable[..., Any]],
    options: Options,
) -> Any:
    if (joined := join_rows(node, values)) is not None:
        return joined
    args = [functions.get(place) or resolve(argument, values) for place, argument in enumerate(node.args)]
    kwargs = {name: resolve(argument, values) for name, argument in node.kwargs.items()}
    if not node.with_gradient:
        # Some operators have no derivative, such as while_loop.
        args, kwargs = jax.tree.map(_without_gradient, (args, kwargs))
    try:
        with _naming(node):
            return _apply_at_sizes(node, operator, args, kwargs, options)
    except ProgramError:
        raise
    except _FAILURES as error:
        shapes = ", ".join(f"{name} {_shown(value)}" for name, value in kwargs.items() if value is not None)
        raise ProgramError(
            "node-failed",
            f"node {_title(node)} with {shapes} failed: {error}. Do the inputs have other sizes than at "
            f"export? {_free_axes(options)}",
        ) from error


@contextlib.contextmanager
def _naming(node: Node) -> Iterator[None]:
    """Name the node in a ``ProgramError`` that an operator raises, and where it needs an unknown value."""
    try:
        yield
    except ProgramError as error:
        raise ProgramError(error.code, f"node {_title(node)}: {error.message}") from error
    except (*_UNKNOWN, TypeError) as error:
        if not isinstance(error, _UNKNOWN) and "concrete values" not in str(error):  # of a shape
            raise
        raise ProgramError(
            "node-failed",
            f"node {_title(node)} depends on the value of a tensor, which is unknown under jax.jit. Call the "
            "program outside of jit",
        ) from error


def _apply_at_sizes(
    node: Node, operator: Operator, args: list, kwargs: dict[str, Any], options: Options
) -> Any:
    """Apply an operator to arguments or with results whose sizes may be unknown."""

    def apply(*args: Any, opaque: bool = False, seq_lengths: Any = None, **kwargs: Any) -> Any:
        settings = replace(options, opaque_layers=True, backend="scan") if opaque else options
        if settings.seq_lengths is None:
            settings = replace(settings, seq_lengths=seq_lengths)
        return _apply(node, operator, list(args), kwargs, settings)

    if is_among((args, kwargs)):
        return run_unknown(node.op, apply, args, operator.arguments(kwargs))
    try:
        return _apply(node, operator, args, kwargs, options)
    except _UNKNOWN:
        if options.exact_sizes or (result := selected(node.op, operator.arguments(kwargs))) is None:
            raise
        return result


def _apply(node: Node, operator: Operator, args: list, kwargs: dict[str, Any], options: Options) -> Any:
    kwargs = operator.arguments(kwargs)
    if operator.takes_options:
        kwargs["options"] = options.of_module(node.module_path)
    return operator.function(*args, **kwargs)


def _require_type(
    node: Node, value: Any, dtype: np.dtype, expected: tuple[Any, ...], options: Options
) -> None:
    """Raise if a result contradicts the file: its static sizes would give wrong numbers downstream."""
    if not isinstance(value, jax.Array):
        return
    if len(expected) != value.ndim:
        raise ProgramError(
            "static-shape", f"node {_title(node)} has {value.ndim} axes here, and {len(expected)} in the file"
        )
    for place, (size, actual) in enumerate(zip(expected, value.shape, strict=True)):
        if size is not None and size != actual and jax.export.is_symbolic_dim(actual):
            raise ProgramError(
                "static-shape",
                f"node {_title(node)}: axis {place} of its result has size {size} in the file, and {actual} "
                "for the free axes of the artifact, which differ for some sizes. Export the axis with a "
                "range in which they are equal, such as "
                "dynamic_shapes={'x': {1: torch.export.Dim('time', min=3)}}, "
                "or with a fixed size",
            )
        if size is not None and size != actual:
            raise ProgramError(
                "static-shape",
                f"node {_title(node)}: axis {place} of its result has size {actual} for these inputs, and "
                f"{size} in the file. The export fixed a size that these inputs change. "
                f"{_free_axes(options)}",
            )
    if held(dtype) != value.dtype:
        raise ProgramError(
            "node-dtype", f"node {_title(node)} has dtype {value.dtype} here, and {dtype} in the file"
        )


def _free_axes(options: Options) -> str:
    free = ", ".join(f"{name} = {size}" for name, size in options.sizes.items()) or "none"
    return f"Free axes of this program: {free}. jaxlstm.from_module frees as many as the model allows"


def _title(node: Node) -> str:
    line = node.calls[-1].line[:120] if node.calls else ""
    return f"{node.name} ({node.op}, {place_of(node)}{line and f': {line}'})"


def _shown(value: Any) -> str:
    if isinstance(value, jax.Array):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple) and any(isinstance(item, jax.Array) for item in value):
        return "[" + ", ".join(_shown(item) for item in value[:8]) + (", ...]" if len(value) > 8 else "]")
    return repr(value)[:80]
