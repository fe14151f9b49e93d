"""A graph in which each module computes its sizes from the shapes of its inputs.

torch computes equal sizes once: in a graph, a module may use a size that another module computed, although
its own code computes it again.
"""

from collections.abc import Mapping
from dataclasses import replace

from jaxlstm.programs.graph import Graph, Node, Site, results_of, rewrite, uses_of, with_names
from jaxlstm_converters.source.calls import is_under
from jaxlstm_converters.source.sizes import Sizes, size_name

_OF_NUMBERS = ("_operator.", "math.", "torch.sym_")


def with_own_sizes(graph: Graph, sizes: Sizes, owners: Mapping[str, str]) -> Graph:
    """Return a graph with a copy of each size computation in the modules with tensors that can repeat it.

    ``owners`` maps placeholders to names of tensors. The operators of another module may be written by its
    caller, which has the computation.
    """
    return rewrite(graph, _OwnSizes(graph, sizes, owners))


class _OwnSizes:
    """A rule that puts the copies of the computations of sizes that a node uses in front of it."""

    def __init__(self, graph: Graph, sizes: Sizes, owners: Mapping[str, str]) -> None:
        paths = {node.module_path for node in graph.nodes}
        self._classes = {path for path in paths if any(is_under(name, path) for name in owners.values())}
        self._makers = {name: node for node in graph.nodes for name in results_of(node)}
        self._shown: dict[str, set[str]] = {}  # module call -> the sizes that its inputs show
        self._copies: dict[tuple[str, str], str | None] = {}
        for node in graph.nodes:
            shown = self._shown.setdefault(_key(node), set())
            shown.update(size for name in self._inputs(node) for size in sizes.symbols_of(name))

    def __call__(self, node: Node, site: Site) -> list[Node]:
        added: list[Node] = []
        inputs = self._inputs(node) if node.module_path in self._classes else []
        own = {name: self._own(name, node, added) for name in inputs}
        return [*added, with_names(node, {name: new for name, new in own.items() if new})]

    def _inputs(self, node: Node) -> list[str]:
        """Return the values that a node uses and that its module call does not make."""
        makers = ((name, self._makers.get(name)) for name in uses_of(node))
        return [
            name for name, made in makers if made is None or _key(node) not in {c.key for c in made.calls}
        ]

    def _own(self, name: str, user: Node, added: list[Node]) -> str | None:
        """Return the name of a size in the module call of its user; None if the call cannot compute it."""
        key = (name, _key(user))
        if key not in self._copies:
            self._copies[key] = self._copied(name, user, added)
        return self._copies[key]

    def _copied(self, name: str, user: Node, added: list[Node]) -> str | None:
        maker = self._makers.get(name)
        if maker is None:
            return None
        if maker.size and size_name(maker.size) in self._shown[_key(user)]:
            return size_name(maker.size)
        if not maker.op.startswith(_OF_NUMBERS):
            return None
        names = {used: self._own(used, user, added) for used in uses_of(maker)}
        if None in names.values():
            return None
        copy = f"{name}_own{len(self._copies)}"
        known = with_names(maker, {used: new for used, new in names.items() if new})
        added.append(replace(known, name=copy, outputs=(copy,), calls=user.calls))
        return copy


def _key(node: Node) -> str:
    return node.calls[-1].key if node.calls else ""
