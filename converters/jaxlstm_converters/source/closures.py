"""Functions of ``cond``, ``while_loop``, ``scan`` and ``map`` as Python has them: closures.

An export passes the parameters and other values that a function takes from the code around it as operands,
and each function has separate names. Here functions use these values by name, and a name has one meaning
in the whole program, so that a weight is known by the tensor that it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph.graph import Graph, Node, TensorType, Tree, Value
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import (
    functions_of,
    live_graph,
    places_of,
    results_of,
    used_values,
    with_arguments,
    with_results,
)

_FUNCTIONS = {"cond": ("branch", "branch"), "while_loop": ("condition", "body")}


class Closures:
    """The graph of a program with closures.

    Functions of ``cond`` keep their operands, except sizes and the tensors of modules. The ``in_tree`` of a
    function has its name, and a tuple for each argument that holds several operands.

    Attributes:
        graph: the graph.
        types: the types of all values, also in functions.
    """

    def __init__(self, graph: Graph, held: Mapping[str, TensorType]) -> None:
        """Convert a graph; ``held`` has the types of parameters, buffers and constants."""
        self.types, self._held = {**held, **graph.types}, held.keys()
        self.graph = self._opened(graph)

    def _opened(self, graph: Graph) -> Graph:
        return rewrite(graph, self._with_closures)

    def _with_closures(self, node: Node, site: Site) -> Node | None:
        if not functions_of(node):
            return None
        kind = node.op.removeprefix("higher_order.")
        results: Any = node.outputs if node.kwargs.get("listed") else places_of(node)
        lists: Any = [part for part in node.args if isinstance(part, tuple)]
        operands = [operand for part in lists for operand in part]
        count, ends = len(lists[0]), [len(results)]
        groups: list[Sequence[int]] = [range(count)]
        if kind == "cond":
            own = {*self.types} - {*self._held}
            groups = [[i] for i, x in enumerate(operands) if isinstance(x, Value) and x.name in own]
        elif kind == "scan":
            groups, ends = [*groups, range(count, count + len(lists[1]))], [count, len(results)]
        parts = [results[low:high] for low, high in zip([0, *ends], ends, strict=False)]
        functions: list[Graph] = []
        for name, function in zip(_FUNCTIONS.get(kind, ("step",)), functions_of(node), strict=True):
            opened = self._function(function, f"{node.name}.{len(functions)}.", node, operands, groups)
            hints = [*["carry"] * (len(groups) - 1), "inputs" if name == "step" else "carry"]
            arguments = tuple(_tree(group, hint) for group, hint in zip(groups, hints, strict=False))
            is_one = name == "condition" or len(parts) == 1
            out_tree = _tree(opened.outputs) if is_one else Tree("tuple", tuple(map(_tree, parts)))
            in_tree = Tree("tuple", arguments, name=name)
            functions.append(replace(opened, in_tree=in_tree, out_tree=out_tree))
        given = tuple(tuple(operands[place] for place in group) for group in groups)
        given = given if kind == "scan" else tuple(map(_grouped, given))
        args = (node.args[0], *functions, given) if kind == "cond" else (*functions, *given)
        return replace(node, args=args, outputs=tuple(results))

    def _function(
        self, graph: Graph, prefix: str, node: Node, operands: Sequence[Any], groups: Sequence[Sequence[int]]
    ) -> Graph:
        """Return a function with new names, of which only the operands of the groups are arguments."""
        graph = live_graph(graph)
        own = [graph.inputs[place] for group in groups for place in group]
        made = [name for inner in graph.nodes for name in results_of(inner)]
        new = {name: prefix + name for name in (*(declared.name for declared in own), *made)}
        around = {i.name: x for i, x in zip(graph.inputs, operands, strict=True) if i.name not in new}
        # Only the steps of a Python loop have separate calls.
        calls = None if "steps" in node.kwargs else tuple(call._replace(line="") for call in node.calls)

        def bound(value: Value) -> Any:
            # A size belongs to no graph.
            return around.get(value.name, Value(new.get(value.name, value.name)))

        def inside(inner: Node, site: Site) -> Node:
            name = prefix + inner.name
            inner = with_results(with_arguments(inner, bound), new)
            return replace(inner, name=name, calls=inner.calls if calls is None else calls)

        inputs = tuple(replace(declared, name=new[declared.name]) for declared in own)
        graph = replace(rewrite(graph, inside), inputs=inputs)
        self.types |= graph.types
        graph = self._opened(graph)
        return replace(graph, captured=tuple(sorted(used_values(graph) - {*new.values()})))


def _grouped(items: Sequence[Any]) -> Any:
    """Return a tuple, its only item, or None for no items."""
    return items[0] if len(items) == 1 else tuple(items) or None


def _tree(items: Sequence[Any], name: str = "") -> Tree:
    """Return the structure of several operands or results, see `_grouped`."""
    kind = "tuple" if len(items) > 1 else "leaf" if items else "none"
    return Tree(kind, (Tree("leaf"),) * len(items) if kind == "tuple" else (), name=name)
