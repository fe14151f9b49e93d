"""The last step of a loop with all its nodes: an export drops nodes of it whose results nobody uses.

Not a rule of ``rewrite``: nodes are added by comparing two steps, and only if all of them fit.
"""

from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph import Graph, Node, places_of, renamed, results_of
from jaxlstm.programs.passes.loop_copies import SELECT, SLICE
from jaxlstm.programs.passes.repetitions import token_of


def with_last_step(graph: Graph, first: int, end: int, period: int) -> tuple[Graph, int]:
    """Return a graph in which the last step has the nodes of the step before, and the number of steps.

    A graph whose last step lacks most nodes, or a row of an array, stays as it is, without this step.

    Args:
        graph: the graph.
        first: index of the first node of the first step.
        end: index of the first node that differs from the one in the step before.
        period: number of the nodes of a step.
    """
    count, rest = divmod(end - first, period)
    nodes, left, missing = [*graph.nodes[: end - rest]], [*graph.nodes[end - rest :]], 0
    names: dict[str, str] = {}  # result in a step -> the same in the step after
    keys: dict[str, str] = {}  # key of a call in the step before -> of the same call in this step
    for old, new in zip(nodes[-2 * period : -period], nodes[-period:], strict=True):
        names.update(zip(results_of(old), results_of(new), strict=True))
    for like in nodes[-period:] if rest else ():
        node = left.pop(0) if left and _token(left[0]) == _token(like) else None
        if node is None and (like.op in (SELECT, SLICE) or missing == period // 2):
            return graph, count
        known = {} if node is None else dict(zip(places_of(like), places_of(node), strict=True))
        names.update((name, known.get(name) or f"{name} of the last step") for name in results_of(like))
        made = renamed(like, names)
        if node is not None:
            keys.update((a.key, b.key) for a, b in zip(like.calls, node.calls, strict=True))
            made = replace(node, name=made.name, outputs=made.outputs, types={**made.types, **node.types})
        else:
            missing += 1
            calls = (c._replace(key=keys.setdefault(c.key, f"{c.key} of the last step")) for c in like.calls)
            made = replace(made, calls=tuple(calls))
        nodes.append(made)
    return (graph.with_nodes((*nodes, *left)), count + 1) if rest else (graph, count)


def _token(node: Node) -> Any:
    # Some results of the last step may not be used.
    return token_of(node, with_types=False), len(node.calls)
