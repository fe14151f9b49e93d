"""``rewrite``: a graph whose nodes have gone through rules."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from operator import itemgetter
from typing import TypeAlias

from jaxlstm.programs.graph.graph import Argument, Graph, Node, TensorType, Value
from jaxlstm.programs.graph.values import functions_of, results_of, users_of, uses_of, with_arguments

Rule: TypeAlias = "Callable[[Node, Site], Node | Iterable[Node] | Value | None]"


def rewrite(graph: Graph, *rules: Rule, types: Mapping[str, TensorType] | None = None) -> Graph:
    """Return a graph after each of its nodes has gone through rules, in time linear in the nodes.

    A rule takes a node, with arguments of the new graph, and the graph around it. It returns the nodes that
    replace the node, a value that replaces its only result wherever that is used, or None to keep the node.
    The nodes go through the other rules in turn. The last node is :attr:`Graph.result`, which must
    stay. A function that a node calls is an argument, which a rule may replace like any other.

    Args:
      graph: the graph.
      rules: the rules, in order.
      types: types of placeholders that the graph does not record, by name of value.
    """
    if not rules:
        return graph
    site = Site(graph, types or {})
    for node in (*graph.nodes, graph.result):
        site._pass(node, rules)
        site.place += 1
    return site._rewritten()


def new_node(node: Node, site: "Site", op: str, type_: TensorType | None, **kwargs: Argument) -> Node:
    """Return a node with a new name, at the place of another one."""
    name = site.fresh(f"{node.name} part")
    types = {name: type_} if type_ else {}
    return replace(node, name=name, op=op, args=(), kwargs=kwargs, outputs=(name,), types=types, size="")


def twin_of(node: Node, site: "Site", twins: dict[str, Value]) -> Node | None:
    """Return a node that computes a number from the twins of its arguments, and note its own twin.

    ``twins`` has name of a number -> the number that a rule computes instead; None without any of them.
    """
    if twins.keys().isdisjoint(uses_of(node)):
        return None
    (result,), name = results_of(node), site.fresh(f"{node.name} part")
    twins[result] = Value(name)
    node = with_arguments(node, lambda value: twins.get(value.name, value))
    return replace(node, name=name, outputs=(name,), size="")


def with_functions(node: Node, change: Callable[[Graph], Graph]) -> Node:
    """Return a node whose functions are changed."""
    args = (change(argument) if isinstance(argument, Graph) else argument for argument in node.args)
    return replace(node, args=tuple(args)) if functions_of(node) else node


class Site:
    """The surroundings of a node, for a rule.

    Attributes:
      graph: the graph before any rule.
      place: the number of the node in it.
      types: name -> type of the tensors that are known so far, and of all in the graph before.
    """

    def __init__(self, graph: Graph, types: Mapping[str, TensorType]) -> None:
        self.graph, self.place, self.types = graph, 0, {**types, **graph.types}
        self._values: dict[str, Value] = {}  # result -> the value that replaces it
        self._nodes: list[tuple[float, Node | None]] = []  # and their places, less 0.5 if inserted
        self._makers: dict[str, int] = {}  # result -> the number of its node

    def maker(self, argument: Argument) -> Node | None:
        """Return the new node that makes a value; None for a placeholder and for other arguments."""
        number = self._makers.get(argument.name) if isinstance(argument, Value) else None
        return None if number is None else self._nodes[number][-1]

    @cached_property
    def users(self) -> dict[str, list[Node]]:
        """Value -> the nodes of the graph before that use it, once for each use."""
        return users_of(self.graph)

    @cached_property
    def _taken(self) -> set[str]:
        placeholders = {**self.graph.parameters, **self.graph.buffers, **self.graph.constants}
        names = (name for node in self.graph.nodes for name in (node.name, *results_of(node)))
        return {*self.types, *placeholders, *(item.name for item in self.graph.inputs), *names}

    def fresh(self, name: str) -> str:
        """Return a name that no other value or node has."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def insert(self, node: Node, place: int) -> None:
        """Add a node in front of the nodes that replace the one at a place."""
        self._add(node, place - 0.5)

    def remove(self, node: Node) -> None:
        """Leave out a new node, whose results nothing uses any more."""
        number = self._makers[results_of(node)[0]]
        self._nodes[number] = (self._nodes[number][0], None)

    def _add(self, node: Node, place: float) -> None:
        self.types.update(node.types)
        for name in results_of(node):
            if name in self._makers:
                raise ValueError(f"two nodes make {name}; a rule names new values with Site.fresh")
            self._makers[name] = len(self._nodes)
        self._nodes.append((place, node))

    def _pass(self, node: Node, rules: tuple[Rule, ...]) -> None:
        """Add the nodes that rules make of a node."""
        for number, rule in enumerate(rules):
            if self._values and not self._values.keys().isdisjoint(uses_of(node)):
                node = with_arguments(node, lambda value: self._values.get(value.name, value))
            replacement = rule(node, self)
            if isinstance(replacement, Value):
                (result,) = results_of(node)
                self._values[result] = self._values.get(replacement.name, replacement)
                return
            if replacement is not None and not isinstance(replacement, Node):
                for new in replacement:
                    self._pass(new, rules[number + 1 :])
                return
            node = replacement or node
        self._add(node, self.place)

    def _rewritten(self) -> Graph:
        ordered = sorted(self._nodes, key=itemgetter(0))
        *nodes, result = (node for _, node in ordered if node is not None)
        return self.graph.with_nodes(nodes, result)
