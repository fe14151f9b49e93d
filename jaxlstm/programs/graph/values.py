"""The values of a graph: which ones an argument, a node and a graph have, and other names for them."""

from collections.abc import Iterator, Mapping, Sequence
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


def results_of(node: Node) -> list[str]:
    """Return the names of the values that a node defines; a list of tensors gives several."""
    listed = (output if isinstance(output, tuple) else (output,) for output in node.outputs)
    return [name for names in listed for name in names if name]


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
    arguments = (*graph.outputs, *graph.mutations.values())
    return {*values_in(arguments), *(name for node in graph.nodes for name in uses_of(node))}


def unused_inputs(graph: Graph) -> list[str]:
    """Return a sentence about each tensor among the inputs that has no effect on the results."""
    used = used_values(graph)
    return [
        f"input {declared.name} has no effect: no node uses it. If it should have one, note that an export "
        "merges arguments that are the same tensor; pass each a .clone()"
        for declared in graph.inputs
        if declared.type and declared.name not in used
    ]


def graph_with_nodes(graph: Graph, nodes: Sequence[Node], renamed: Mapping[str, str]) -> Graph:
    """Return a graph with other nodes and other names in its results: old name of a value -> new name."""
    return replace(
        graph,
        nodes=tuple(nodes),
        outputs=tuple(renamed_argument(output, renamed) for output in graph.outputs),
        mutations={name: renamed_argument(value, renamed) for name, value in graph.mutations.items()},
    )


def with_names(node: Node, renamed: Mapping[str, str]) -> Node:
    """Return a node whose arguments have other names: old name of a value -> new name."""
    args = tuple(renamed_argument(argument, renamed) for argument in node.args)
    kwargs = {name: renamed_argument(argument, renamed) for name, argument in node.kwargs.items()}
    return replace(node, args=args, kwargs=kwargs)


def renamed_argument(argument: Argument, renamed: Mapping[str, str]) -> Argument:
    """Return an argument with other names of its values."""
    if isinstance(argument, Value):
        return Value(renamed.get(argument.name, argument.name))
    if isinstance(argument, tuple):
        return tuple(renamed_argument(item, renamed) for item in argument)
    return argument
