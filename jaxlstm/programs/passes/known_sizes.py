"""``known_sizes``: the size of an axis instead of a number that a model reads from a tensor.

``jit`` knows sizes and not numbers: ``torch.arange(lengths.max())`` needs the number. It is the size of an
axis if torch asserts that, or if it is the largest length of packed sequences. Nodes that use it may have to
come after the size. An assertion stays unless it holds for all lengths.
"""

from collections.abc import Mapping, Sequence, Set

from jaxlstm.programs.graph.graph import RESULT, Argument, Graph, Node, Value
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import results_of, uses_of, with_arguments
from jaxlstm.programs.passes.equal_values import EqualValues
from jaxlstm.programs.passes.packed_lengths import ITEMS, PackedLengths

_MOST_MOVES = 16
"""The most sizes for which nodes are moved, so that a file with many of them loads in a short time."""


def known_sizes(graph: Graph) -> Graph:
    """Return a graph without in-place operators with the size for each number that an assertion equates with
    it, and for the largest length of packed sequences.
    """
    checks = (node for node in graph.nodes if node.op == "aten._assert_scalar.default")
    asserted = {name for node in checks for name in uses_of(node)}
    if not asserted:
        return graph
    same = EqualValues()  # A model may read the same number twice.
    for node in graph.nodes:
        same.note(node)
    proven = _longest(graph, same)
    sizes = {**proven, **_asserted(graph, same, asserted)}
    if not sizes:
        return graph

    def size_of(node: Node, value: Value) -> tuple[int, Argument]:
        first = same.first(value.name)
        own = proven.get(first, (-1, value))
        if node.op == RESULT:
            return -1, value
        if node.name in asserted:
            # Other assertions must stay. A batch has at least one step.
            is_least = node.op == "_operator.ge" and node.args[0] == value and node.args[1] in (0, 1)
            is_equal = node.op == "_operator.eq" and {*node.args} == {value, own[1]}
            return own if is_least or is_equal else (-1, value)
        shapes = [type_.shape for type_ in node.types.values()]
        is_element = first in proven and bool(shapes) and all(None not in shape for shape in shapes)
        return (-1, value) if is_element else sizes.get(first, (-1, value))

    users = dict[int, list[int]]()  # place of a size -> the places before it of nodes that use its number
    for place, node in enumerate(graph.nodes):
        for start in (size_of(node, Value(name))[0] for name in uses_of(node)):
            if place < start:
                users.setdefault(start, []).append(place)
    order = _later(graph.nodes, users)
    moved = {old: new for new, old in enumerate(order)}

    def with_size(node: Node, site: Site) -> Node:
        def known(value: Value) -> Argument:
            start, size = size_of(node, value)
            return size if moved.get(start, start) < site.place else value

        return with_arguments(node, known)

    return rewrite(graph.with_nodes(graph.nodes[place] for place in order), with_size)


Sizes = dict[str, tuple[int, Argument]]
"""First of equal numbers -> the place in the graph from which its size is known, and the size."""


def _longest(graph: Graph, same: EqualValues) -> Sizes:
    """Return the sizes of packed batches for the largest of their lengths, which need no assertion."""
    lengths, sizes = PackedLengths(graph), dict[tuple[str, int], tuple[int, Argument]]()
    cuts = dict[str, tuple[str, int]]()  # largest length -> the packed batch, and its axis
    for place, node in enumerate(graph.nodes):
        if node.op in ITEMS and (cut := lengths.cut_by(node)):
            cuts[same.first(results_of(node)[0])] = cut
        if node.op == "aten.sym_size.int":
            tensor, dim = node.kwargs["self"], node.kwargs["dim"]
            axis = getattr(tensor, "name", ""), dim if isinstance(dim, int) else -1
            sizes.setdefault(axis, (place, Value(results_of(node)[0])))
    return {longest: sizes[cut] for longest, cut in cuts.items() if cut in sizes}


def _asserted(graph: Graph, same: EqualValues, asserted: Set[str]) -> Sizes:
    """Return the sizes that assertions equate with numbers."""
    equal = _simplified(graph.nodes, asserted)
    unknown: set[str] = set()  # Numbers that depend on the values of tensors.
    sizes: Sizes = {}
    places: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        places |= dict.fromkeys(results_of(node), place)
        is_number = node.op.startswith(("_operator.", "math.", "torch.sym"))
        if node.op in ITEMS or (is_number and not unknown.isdisjoint(uses_of(node))):
            unknown |= {*results_of(node)}
        if node.op == "_operator.eq" and node.name in asserted:
            args = [equal.get(a.name, a) if isinstance(a, Value) else a for a in node.args]
            numbers = [a for a in args if isinstance(a, Value) and a.name in unknown]
            other_args = [a for a in args if a not in numbers]
            if len(numbers) == 1 == len(other_args):
                start = places.get(other_args[0].name, -1) if isinstance(other_args[0], Value) else -1
                sizes.setdefault(same.first(numbers[0].name), (start, other_args[0]))
    return sizes


def _later(nodes: Sequence[Node], users: Mapping[int, Sequence[int]]) -> list[int]:
    """Return the places of nodes in an order in which users of numbers follow the nodes of their sizes.

    They stay in place if the size depends on them, or if they or the nodes that depend on them are in other
    calls of modules than those around the size. A call of a module stays whole.
    """
    keys = [[call.key for call in node.calls] for node in nodes]
    after = dict[int, int]()  # place of a node -> the place in front of which it comes
    for start, early in [*users.items()][:_MOST_MOVES]:
        depth = len(keys[early[0]])
        stops = (n for n in range(start + 1, len(nodes)) if keys[n - 1][: depth + 1] != keys[n][: depth + 1])
        stop = start + 1 if len(keys[start]) == depth else next(stops, len(nodes))
        late, made = {*early}, {name for place in early for name in results_of(nodes[place])}
        for place in range(early[0], stop):
            if place in late or not made.isdisjoint(uses_of(nodes[place])):
                late.add(place)
                made.update(results_of(nodes[place]))
        if start not in late and all(keys[place] == keys[start][:depth] for place in late):
            after |= {place: max(stop, after.get(place, 0)) for place in late}
    order = sorted(range(len(nodes)), key=lambda place: (after.get(place, place), place not in after))
    return [*range(len(nodes))] if any(start in after for start in users) else order


def _simplified(nodes: Sequence[Node], asserted: Set[str]) -> dict[str, Argument]:
    """Return x for each sum ``x + min(0, n)`` where torch asserts that n is not negative."""
    checks = [node.args for node in nodes if node.op == "_operator.ge" and node.name in asserted]
    minima = [node for node in nodes if node.op == "torch.sym_min" and node.args[::-1] in checks]
    zeros = [Value(node.name) for node in minima if node.args[0] == 0]
    return {node.name: node.args[0] for node in nodes if node.op == "_operator.add" and node.args[1] in zeros}
