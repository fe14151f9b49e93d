"""Other names for the values of a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxlstm.programs.graph import Argument, Graph, Node, Value


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
