"""The last step of a loop with all its nodes: an export drops nodes of it whose results nobody uses.

Not a rule of ``rewrite``: nodes are added by comparing two steps, and only if all of them fit.
"""

from dataclasses import replace

from jaxlstm.programs.graph import Graph, Node, places_of, renamed, results_of
from jaxlstm.programs.passes.loop_copies import SELECT, SLICE
from jaxlstm.programs.passes.repetitions import token_of


def completed(graph: Graph, first: int, end: int, period: int) -> tuple[Graph, int]:
    """Return a graph in which the last step has the nodes of the step before, and the number of steps.

    A graph whose last step lacks most nodes, or a row of an array, stays as it is, without this step.

    Args:
        graph: the graph.
        first: index of the first node of the first step.
        end: index of the first node that differs from the one in the step before.
        period: number of the nodes of a step.
    """
    count, rest = divmod(end - first, period)
    stop = end - rest + period
    step = _LastStep([*graph.nodes[: end - rest]], period)
    nodes, inserted = [*graph.nodes[end - rest :]], 0
    while rest and len(step.nodes) < stop:
        if nodes and step.takes(nodes[0]):
            step.add(nodes.pop(0))
        elif step.like.op in (SELECT, SLICE) or inserted == period // 2:
            return graph, count
        else:
            step.add(None)
            inserted += 1
    return (graph.with_nodes((*step.nodes, *nodes)), count + 1) if rest else (graph, count)


class _LastStep:
    """Nodes of a graph to which the nodes of another step are added."""

    def __init__(self, nodes: list[Node], period: int) -> None:
        self.nodes, self._period = nodes, period
        self._names: dict[str, str] = {}  # result in a step -> the same in the step after
        self._keys: dict[str, str] = {}  # key of a call in the step before -> of the same call in this step
        for old, new in zip(nodes[-2 * period : -period], nodes[-period:], strict=True):
            self._names.update(zip(results_of(old), results_of(new), strict=True))

    @property
    def like(self) -> Node:
        """The node of the step before in the place of the next node."""
        return self.nodes[-self._period]

    def takes(self, node: Node) -> bool:
        """Return True if a node is the next one, some of whose results may not be used."""
        return token_of(node, with_types=False) == token_of(self.like, with_types=False)

    def add(self, node: Node | None) -> None:
        """Add the next node, with all results; None for a node that is missing."""
        like = self.like
        known = {} if node is None else dict(zip(places_of(like), places_of(node), strict=True))
        new = {name: known.get(name) or f"{name} of the last step" for name in results_of(like)}
        made = renamed(like, {**self._names, **new})
        if node is not None:
            self._keys.update((a.key, b.key) for a, b in zip(like.calls, node.calls, strict=True))
            made = replace(node, name=made.name, outputs=made.outputs, types={**made.types, **node.types})
        else:
            keys = [self._keys.setdefault(call.key, f"{call.key} of the last step") for call in like.calls]
            calls = (call._replace(key=key) for call, key in zip(like.calls, keys, strict=True))
            made = replace(made, calls=tuple(calls))
        self.nodes.append(made)
        self._names.update(new)
