"""Numbers that a model reads from tensors, such as the largest length, where they equal sizes of axes."""

from collections.abc import Sequence, Set
from dataclasses import replace

from jaxlstm.programs.graph import Argument, Graph, Node, Value, results_of, uses_of


def with_known_sizes(graph: Graph) -> Graph:
    """Return the graph, in which a size replaces each number that an assertion equates with it.

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
            others = [a for a in args if a not in numbers]
            if len(numbers) == 1 == len(others):
                start = places.get(others[0].name, -1) if isinstance(others[0], Value) else -1
                sizes.setdefault(numbers[0].name, (start, others[0]))

    def known(argument: Argument, place: int) -> Argument:
        if isinstance(argument, tuple):
            return tuple(known(item, place) for item in argument)
        if not isinstance(argument, Value) or argument.name not in sizes:
            return argument
        start, size = sizes[argument.name]
        return size if start < place else argument

    def with_sizes(node: Node, place: int) -> Node:
        kwargs = {name: known(argument, place) for name, argument in node.kwargs.items()}
        return replace(node, args=tuple(known(argument, place) for argument in node.args), kwargs=kwargs)

    nodes = (
        node if node.name in asserted else with_sizes(node, place) for place, node in enumerate(graph.nodes)
    )
    return replace(graph, nodes=tuple(nodes)) if sizes else graph


def _simplified(nodes: Sequence[Node], asserted: Set[str]) -> dict[str, Argument]:
    """Return x for each sum ``x + min(0, n)`` where torch asserts that n is not negative."""
    checks = [node.args for node in nodes if node.op == "_operator.ge" and node.name in asserted]
    minima = [node for node in nodes if node.op == "torch.sym_min" and node.args[::-1] in checks]
    zeros = [Value(node.name) for node in minima if node.args[0] == 0]
    return {node.name: node.args[0] for node in nodes if node.op == "_operator.add" and node.args[1] in zeros}
