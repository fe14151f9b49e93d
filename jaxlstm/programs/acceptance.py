"""The checks of a graph at load time, before any array exists.

Every operator must be registered and called with arguments that it knows, every value must be defined before
it is used, and the model must have been exported in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

# Imported to register the operators.
from jaxlstm.programs import operators as operators
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph.graph import Graph, Node, TensorType, Value, place_of
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import functions_of, live_graph, results_of, uses_of, values_in
from jaxlstm.programs.operators.registry import Operator, find_operator, functional_name, is_in_place, refusal
from jaxlstm.programs.passes.functionalize import functionalize
from jaxlstm.programs.passes.known_draws import known_draws
from jaxlstm.programs.passes.known_sizes import known_sizes
from jaxlstm.programs.passes.merged_axes import whole_axes
from jaxlstm.programs.passes.ranges import from_zero
from jaxlstm.programs.passes.shown_conditions import with_shown_condition
from jaxlstm.programs.passes.tiny_offsets import without_tiny_offset
from jaxlstm.programs.passes.views import without_out
from jaxlstm.programs.passes.whole_arrays import whole_arrays


def accept(graph: Graph, types: Mapping[str, TensorType] | None = None) -> tuple[Graph, frozenset[str]]:
    """Check a graph, and replace its in-place operators.

    Args:
      graph: the graph of a file.
      held: name of value -> type of the parameter, buffer or constant, if known.

    Returns:
      The graph without in-place operators, and the names of the placeholders that the given graph writes to.

    Raises:
      ProgramError: an operator is not supported, or the graph is malformed.
    """
    graph = rewrite(graph, without_out, known_draws, _without_offsets, with_shown_condition)
    _require_defined_values(graph)
    graph = _without_unused(graph)
    node_operators = _operators_of(graph)
    _require_evaluation_mode(graph, node_operators)
    for node, operator in zip(graph.nodes, node_operators, strict=True):
        _require_known_arguments(node, operator)
    pure, mutated = functionalize(graph, types or {})
    _require_unshared(graph, mutated)
    if pure is not graph:
        _operators_of(pure)
    pure = whole_arrays(whole_axes(known_sizes(pure), types or {}), types or {})
    return rewrite(pure, without_tiny_offset, from_zero, _with_accepted_functions), mutated


def _without_offsets(node: Node, site: Site) -> Sequence[Node] | None:
    """Drop an assertion that an offset of memory is not negative: it always holds, and JAX has none."""
    compared = site.maker(node.kwargs.get("self")) if node.op == "aten._assert_scalar.default" else None
    offset = site.maker(compared.args[0]) if compared is not None and compared.op == "_operator.ge" else None
    return () if offset is not None and offset.op == "aten.sym_storage_offset.default" else None


def _with_accepted_functions(node: Node, site: Site) -> Node | None:
    if not functions_of(node):
        return None
    accepted = [accept(item) if isinstance(item, Graph) else (item, ()) for item in node.args]
    if any(mutated for _, mutated in accepted):
        raise ProgramError(
            "unsupported-alias",
            f"a function of node {node.name} ({node.op}, {place_of(node)}) changes its argument "
            "in place. Replace the in-place operator by its functional form, and export again",
        )
    return replace(node, args=tuple(item for item, _ in accepted))


def _require_unshared(graph: Graph, mutated: Iterable[str]) -> None:
    """Raise if the program changes a tensor that shares memory with another."""
    names = {**graph.parameters, **graph.buffers, **graph.constants}
    changed = {names[value] for value in mutated if value in names} | graph.mutations.keys()
    for group in graph.shared:
        for name in sorted(changed & set(group)):
            others = ", ".join(other for other in group if other != name)
            raise ProgramError(
                "unsupported-alias",
                f"the program changes {name}, which shares memory with {others}. Give each its own memory "
                "with .clone() in the model, and export again",
            )


def _placeholders(graph: Graph) -> set[str]:
    return {*graph.parameters, *graph.buffers, *graph.constants, *(i.name for i in graph.inputs)}


def _require_defined_values(graph: Graph) -> None:
    defined = _placeholders(graph)
    for node in graph.nodes:
        _require(uses_of(node), defined, f"node {node.name}")
        defined.update(results_of(node))
    _require(values_in((*graph.outputs, *graph.mutations.values())), defined, "the result of the graph")


def _require(names: Iterable[str], defined: set[str], user: str) -> None:
    for name in names:
        if name not in defined:
            raise ProgramError(
                "malformed-graph", f"{user} uses the value {name}, which is not defined before"
            )


_FIX = (
    "Register an implementation with jaxlstm.programs.register_operator before loading (for "
    "commands, in a file: --operators FILE.py), or export the model without these operators"
)


def _without_unused(graph: Graph) -> Graph:
    """Return the graph without unsupported operators that have no effect, nor the nodes that use them."""
    live = live_graph(graph, _has_effect)
    live_names = {node.name for node in live.nodes}
    nodes, unused = list[Node](), set[str]()
    for node in graph.nodes:
        is_needed = node.name in live_names or (find_operator(node.op) and unused.isdisjoint(uses_of(node)))
        if is_needed:
            nodes.append(node)
        else:
            unused.update(results_of(node))
    return graph.with_nodes(nodes)


def _has_effect(node: Node) -> bool:
    """Return True unless a node is an operator that only makes new tensors or numbers."""
    is_plain = node.op.startswith("_operator.") or (
        node.op.startswith("aten.") and functional_name(node.op) == node.op and "out" not in node.kwargs
    )
    return not is_plain or "assert" in node.op


def _operators_of(graph: Graph) -> tuple[Operator, ...]:
    registered, missing = [], {}
    for node in graph.nodes:
        operator = find_operator(node.op)
        if operator is None:
            missing.setdefault(node.op, []).append(node.module_path or "the outermost module")
        else:
            registered.append(operator)
    if not missing:
        return tuple(registered)
    lines = []
    for name, paths in sorted(missing.items()):
        reason = refusal(name)
        places = ", ".join(dict.fromkeys(paths))
        lines.append(f"  {name} in {places}" + (f" ({reason})" if reason else ""))
    raise ProgramError(
        "unsupported-operator",
        f"the program calls {len(missing)} unsupported operator{'s' * (len(missing) > 1)}:\n"
        + "\n".join(lines)
        + f".\n{_FIX}",
    )


def _require_evaluation_mode(graph: Graph, operators: Sequence[Operator]) -> None:
    in_training = [
        f"{node.op} in {place_of(node)}"
        for node, operator in zip(graph.nodes, operators, strict=True)
        if operator.in_training is not None and operator.in_training(node.kwargs)
    ]
    if in_training:
        places = ", ".join(dict.fromkeys(in_training))
        raise ProgramError(
            "training-mode",
            f"the model was exported in training mode: {places}. Its results would depend on random numbers "
            "or on the other rows of the batch. Call model.eval() before torch.export.export",
        )


def _require_known_arguments(node: Node, operator: Operator) -> None:
    kwargs = dict(node.kwargs)
    if is_in_place(node.op):
        kwargs = {operator.first_parameter if name == "self" else name: v for name, v in kwargs.items()}
    if operator.takes_options:
        kwargs["options"] = None
    try:
        bound = operator.signature.bind(*node.args, **operator.arguments(kwargs))
        bound.apply_defaults()
        if node.op in _CALLERS:
            _require_functions(node, bound.args)
    except TypeError as error:
        raise ProgramError(
            "malformed-graph",
            f"node {node.name} ({node.op}, {place_of(node)}): {error}. The parameters of a registered "
            f"function must have the names of torch's schema, here {', '.join(kwargs) or 'none'}",
        ) from None


_CALLERS = tuple(f"higher_order.{name}" for name in ("cond", "while_loop", "scan", "map_impl"))


def _require_functions(node: Node, args: tuple[Any, ...]) -> None:
    """Raise a TypeError unless each function takes its operands, and returns the results of the node."""
    results = sum(len(output) if isinstance(output, tuple) else 1 for output in node.outputs)
    for function, operands, needed in _functions(node.op, args, results):
        values = [output for output in function.outputs if isinstance(output, Value | int | float | None)]
        if len(function.inputs) != operands or not len(values) == len(function.outputs) == needed:
            raise TypeError(f"its functions must return {needed} tensors or numbers of {operands} values")


def _functions(op: str, args: tuple[Any, ...], results: int) -> list[tuple[Graph, int, int]]:
    """Return the functions of a node, each with the numbers of its operands and results."""
    match op.removeprefix("higher_order."), args:
        case "cond", (Value() | bool(), Graph() as true, Graph() as false, tuple() as operands):
            return [(function, len(operands), results) for function in (true, false)]
        case "while_loop", (Graph() as condition, Graph() as body, tuple() as state, tuple() as more):
            count = len(state) + len(more)
            return [(condition, count, 1), (body, count, len(state)), (body, count, results)]
        case "scan", (Graph() as step, tuple() as state, tuple() as xs, tuple() as more, None, False):
            return [(step, len(state) + len(xs) + len(more), results)]
        case "map_impl", (Graph() as function, tuple() as xs, tuple() as more):
            return [(function, len(xs) + len(more), results)]
    raise TypeError("its arguments are not functions and lists of operands")
