"""The values of a graph: which ones an argument, a node and a graph have, and other names for them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph.graph import Argument, Graph, Node, Value


def values_in(argument: Argument) -> Iterator[str]:
    """Yield the names of the values in an argument; of a function, the values that it uses by name."""
    if isinstance(argument, Value):
        yield argument.name
    elif isinstance(argument, tuple):
        for item in argument:
            yield from values_in(item)
    elif isinstance(argument, Graph):
        yield from argument.captured


def uses_of(node: Node) -> Iterator[str]:
    """Yield the names of the values that a node takes."""
    yield from values_in((*node.args, *node.kwargs.values()))


def places_of(node: Node) -> list[str | None]:
    """Return the name of each result of a node, None for an unused one; a list of tensors gives several."""
    names: list[str | None] = []
    for output in node.outputs:
        names += output if isinstance(output, tuple) else (output,)
    return names


def results_of(node: Node) -> list[str]:
    """Return the names of the values that a node defines."""
    return [name for name in places_of(node) if name]


def functions_of(node: Node) -> list[Graph]:
    """Return the functions that a node calls."""
    return [argument for argument in node.args if isinstance(argument, Graph)]


def all_nodes(graph: Graph) -> Iterator[Node]:
    """Yield the nodes of a graph, each after the nodes of its functions."""
    for node in graph.nodes:
        for function in functions_of(node):
            yield from all_nodes(function)
        yield node


def named_results(node: Node, result: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the results of a node that the graph uses."""
    if not node.outputs:
        return
    results = (result,) if len(node.outputs) == 1 else result
    for output, value in zip(node.outputs, results, strict=False):
        if isinstance(output, str):
            yield output, value
        elif output is not None:
            yield from zip(output, value, strict=True)


def used_values(graph: Graph) -> set[str]:
    """Return the names of the values that a node or a result uses."""
    return {name for node in (*graph.nodes, graph.result) for name in uses_of(node)}


def unused_inputs(graph: Graph) -> list[str]:
    """Return a sentence about each tensor among the inputs that has no effect on the results."""
    used = used_values(graph)
    return [
        f"input {declared.name} has no effect: no node uses it. If it should have one, note that an export "
        "merges arguments that are the same tensor; pass each a .clone()"
        for declared in graph.inputs
        if declared.type and declared.name not in used
    ]


def users_of(graph: Graph) -> dict[str, list[Node]]:
    """Return value -> the nodes that use it, also inside of functions, once for each use.

    The node of a result is :attr:`Graph.result`.
    """
    users: dict[str, list[Node]] = {}
    for node in (*graph.nodes, graph.result):
        for argument in (*node.args, *node.kwargs.values()):
            inner = users_of(argument) if isinstance(argument, Graph) else {}
            for name in values_in(argument):
                users.setdefault(name, []).extend(inner.get(name, [node]))
    return users


def live_graph(graph: Graph, is_needed: Callable[[Node], bool] = lambda node: False) -> Graph:
    """Return a graph without nodes whose results nobody uses, except the needed ones.

    This cannot be a rule of ``rewrite``, since it goes from the results backward.
    """
    used, live = {*uses_of(graph.result)}, []
    for node in reversed(graph.nodes):
        if is_needed(node) or not used.isdisjoint(results_of(node)):
            live.append(node)
            used.update(uses_of(node))
    return replace(graph, nodes=tuple(reversed(live)))


def with_arguments(node: Node, argument_of: Callable[[Value], Argument]) -> Node:
    """Return a node with its values replaced by other arguments."""
    args = tuple(replaced(argument, argument_of) for argument in node.args)
    kwargs = {name: replaced(argument, argument_of) for name, argument in node.kwargs.items()}
    return replace(node, args=args, kwargs=kwargs)


def replaced(argument: Argument, argument_of: Callable[[Value], Argument]) -> Argument:
    """Return an argument with its values replaced by other arguments, also in functions that capture them."""
    if isinstance(argument, Value):
        return argument_of(argument)
    if isinstance(argument, tuple):
        return tuple(replaced(item, argument_of) for item in argument)
    if isinstance(argument, Graph) and argument.captured:
        return _bound(argument, {name: argument_of(Value(name)) for name in argument.captured})
    return argument


def _bound(function: Graph, arguments: Mapping[str, Argument]) -> Graph:
    """Return a function that uses other values by name."""
    *nodes, result = (
        with_arguments(node, lambda value: arguments.get(value.name, value))
        for node in (*function.nodes, function.result)
    )
    captured = tuple(sorted({*values_in(tuple(arguments.values()))}))
    return replace(function.with_nodes(nodes, result), captured=captured)


def with_names(node: Node, names: Mapping[str, str]) -> Node:
    """Return a node whose arguments have other names: old name of a value -> new name."""
    return with_arguments(node, lambda value: Value(names.get(value.name, value.name)))


def with_results(node: Node, names: Mapping[str, str]) -> Node:
    """Return a node whose results have other names."""
    outputs = tuple(
        tuple(names.get(name, name) for name in output)
        if isinstance(output, tuple)
        else names.get(output or "", output)
        for output in node.outputs
    )
    types = {names.get(name, name): type_ for name, type_ in node.types.items()}
    name = names.get(next(iter(results_of(node)), ""), node.name)
    return replace(node, name=name, outputs=outputs, types=types)


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """Return a node whose arguments and results have other names."""
    return with_results(with_names(node, names), names)
