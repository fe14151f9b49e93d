"""``known_sizes``: the size of an axis instead of a number that a model reads from a tensor.

``jit`` knows sizes and not numbers: ``torch.arange(lengths.max())`` needs the number, and torch asserts that
it is the size of an axis with which the result is combined. The assertion stays.
"""

from collections.abc import Sequence, Set

from jaxlstm.programs.graph.graph import RESULT, Argument, Graph, Node, Value
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import results_of, uses_of, with_arguments
from jaxlstm.programs.passes.equal_values import EqualValues


def known_sizes(graph: Graph) -> Graph:
    """Return a graph without in-place operators with the size for each number that an assertion equates with
    it.
    """
    checks = (node for node in graph.nodes if node.op == "aten._assert_scalar.default")
    asserted = {name for node in checks for name in uses_of(node)}
    if not asserted:
        return graph
    equal = _simplified(graph.nodes, asserted)
    unknown: set[str] = set()  # Numbers that depend on the values of tensors.
    same = EqualValues()  # A model may read the same number twice.
    # First of equal numbers -> the place in the graph from which its size is known, and the size.
    sizes: dict[str, tuple[int, Argument]] = {}
    places: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        same.note(node)
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
                sizes.setdefault(same.first(numbers[0].name), (start, other_args[0]))

    def with_size(node: Node, site: Site) -> Node | None:
        if node.name in asserted or node.op == RESULT:
            return None

        def size_of(value: Value) -> Argument:
            start, size = sizes.get(same.first(value.name), (-1, value))
            return size if start < site.place else value

        return with_arguments(node, size_of)

    return rewrite(graph, with_size) if sizes else graph


def _simplified(nodes: Sequence[Node], asserted: Set[str]) -> dict[str, Argument]:
    """Return x for each sum ``x + min(0, n)`` where torch asserts that n is not negative."""
    checks = [node.args for node in nodes if node.op == "_operator.ge" and node.name in asserted]
    minima = [node for node in nodes if node.op == "torch.sym_min" and node.args[::-1] in checks]
    zeros = [Value(node.name) for node in minima if node.args[0] == 0]
    return {node.name: node.args[0] for node in nodes if node.op == "_operator.add" and node.args[1] in zeros}
