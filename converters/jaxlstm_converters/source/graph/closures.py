"""Functions of ``cond``, ``while_loop``, ``scan`` and ``map`` as Python has them: closures.

An export passes the parameters and other values that a function takes from the code around it as operands,
and each function has separate names. Here functions use these values by name, and a name has one meaning
in the whole program, so that a weight is known by the tensor that it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph.graph import Graph, Input, ModuleCall, Node, TensorType, Tree, Value
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
    """The graphs of programs with closures.

    Functions of ``cond`` keep their operands, except sizes and the tensors of modules, and except all of a
    node with ``by_name``. The ``in_tree`` of a function has its name, and a tuple for each argument that
    holds several operands.

    Attributes:
        types: the types of all values, also in functions.
    """

    def __init__(self) -> None:
        self.types: dict[str, TensorType] = {}
        self._held: dict[str, Value] = {}  # name in torch -> value

    def opened(self, graph: Graph, held: Mapping[str, TensorType], prefix: str) -> Graph:
        """Return the graph of a program with closures, in which the names of other values get a prefix.

        ``held`` has the types of parameters, buffers and constants; two of one name are one value.
        """
        owners = {**graph.parameters, **graph.buffers, **graph.constants}
        around = {v: self._held.setdefault(name, Value(prefix + v)) for v, name in owners.items()}
        self.types |= {around[v].name: type_ for v, type_ in held.items()}
        graph = self._renamed(graph, graph.inputs, prefix, around)
        kinds = ("parameters", "buffers", "constants")
        named: Any = {k: {around[v].name: name for v, name in vars(graph)[k].items()} for k in kinds}
        return replace(graph, **named)

    def _with_closures(self, node: Node, site: Site) -> Node | None:
        if not functions_of(node):
            return None
        kind = node.op.removeprefix("higher_order.")
        results: Any = node.outputs if node.kwargs.get("listed") else places_of(node)
        lists: Any = [part for part in node.args if isinstance(part, tuple)]
        operands = [operand for part in lists for operand in part]
        count, ends = len(lists[0]), [len(results)]
        groups: list[Sequence[int]] = [range(count)]
        if kind == "cond" and node.kwargs.get("by_name"):
            groups = []
        elif kind == "cond":
            own = {*self.types} - {value.name for value in self._held.values()}
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
        around = {i.name: x for i, x in zip(graph.inputs, operands, strict=True) if i not in own}
        # Functions of torch's own operators have no calls.
        is_own = any(inner.calls for inner in graph.nodes)
        calls = None if is_own else tuple(call._replace(line="") for call in node.calls)
        graph = self._renamed(graph, own, prefix, around, calls)
        made = (name for inner in graph.nodes for name in results_of(inner))
        known = {*made, *(declared.name for declared in graph.inputs)}
        return replace(graph, captured=tuple(sorted(used_values(graph) - known)))

    def _renamed(
        self,
        graph: Graph,
        inputs: Sequence[Input],
        prefix: str,
        around: Mapping[str, Any],
        calls: tuple[ModuleCall, ...] | None = None,
    ) -> Graph:
        """Return a graph with a prefix before the names of some inputs and of its results.

        ``around`` has the arguments in the place of other values, ``calls`` the calls around all nodes.
        """
        made = [name for inner in graph.nodes for name in results_of(inner)]
        new = {name: prefix + name for name in (*(declared.name for declared in inputs), *made)}

        def bound(value: Value) -> Any:
            # A size belongs to no graph.
            return around.get(value.name, Value(new.get(value.name, value.name)))

        def inside(inner: Node, site: Site) -> Node:
            name = prefix + inner.name
            inner = with_results(with_arguments(inner, bound), new)
            return replace(inner, name=name, calls=inner.calls if calls is None else calls)

        declared = tuple(replace(declared, name=new[declared.name]) for declared in inputs)
        graph = replace(rewrite(graph, inside), inputs=declared)
        self.types |= graph.types
        return rewrite(graph, self._with_closures)


def _grouped(items: Sequence[Any]) -> Any:
    """Return a tuple, its only item, or None for no items."""
    return items[0] if len(items) == 1 else tuple(items) or None


def _tree(items: Sequence[Any], name: str = "") -> Tree:
    """Return the structure of several operands or results, see `_grouped`."""
    kind = "tuple" if len(items) > 1 else "leaf" if items else "none"
    return Tree(kind, (Tree("leaf"),) * len(items) if kind == "tuple" else (), name=name)
