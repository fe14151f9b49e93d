"""Loops in a graph: nodes that an export repeated for each iteration of a loop in the model.

:func:`find_loops` looks for consecutive copies of the same nodes, equal up to the names of their values. It
accepts a run of copies if each value that a copy uses has one of four roles: it is computed in the same
copy, it is computed in the copy before (the state of the loop), it is the same value in all copies, or it is
a row of a sequence that moves with the copies. Any other loop stays as it is.

The first and the last copy run as ordinary nodes. :mod:`jaxlstm.programs.loop_step` runs the others as one
``jax.lax.scan``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Argument, Graph, Node, Value
from jaxlstm.programs.loop_copies import SELECT, SELECT_SCATTER, SLICE, Loop, LoopCopies, NotALoop

FEWEST_COPIES = 16
"""Number of copies from which a loop is worth a scan."""
LONGEST_BODY = 1_000
MOST_FAILURES = 50
"""The search ends after this number of repetitions that it refuses."""
MOST_FAILURES_AT_A_NODE = 4


def find_loops(graph: Graph) -> dict[int, Loop]:
    """Return the loops of a graph by the index of their first node."""
    if len(graph.nodes) < FEWEST_COPIES:
        return {}
    loops: dict[int, Loop] = {}
    taken = np.zeros(len(graph.nodes), bool)
    refused = np.zeros(len(graph.nodes), int)
    failures = 0
    for start, end, period in repetitions(graph.nodes, FEWEST_COPIES):
        free = start + np.flatnonzero(~taken[start:end])
        start, count = (int(free[0]), len(free) // period) if free.size else (start, 0)
        copies = slice(start, start + period * count)
        if count < FEWEST_COPIES or taken[copies].any() or refused[copies].min() >= MOST_FAILURES_AT_A_NODE:
            continue
        try:
            loop = LoopCopies(graph, start, period, count).loop()
        except NotALoop:
            refused[copies] += 1
            failures += 1
            if failures == MOST_FAILURES:
                break
            continue
        loops[loop.start] = loop
        taken[copies] = True
    return loops


def repetitions(nodes: Sequence[Node], fewest: int) -> list[tuple[int, int, int]]:
    """Return (start, end, length of a copy) of nodes with a number of copies at least, most nodes first."""
    numbers: dict[Any, int] = {}
    tokens = np.array([numbers.setdefault(token_of(node), len(numbers)) for node in nodes])
    found = []
    for period in range(1, min(len(nodes) // fewest, LONGEST_BODY) + 1):
        equal = np.concatenate([[False], tokens[period:] == tokens[:-period], [False]])
        starts, ends = np.flatnonzero(np.diff(equal)).reshape(-1, 2).T
        for start, length in zip(starts.tolist(), (ends - starts).tolist(), strict=True):
            if length // period + 1 >= fewest:
                found.append((start, start + length + period, period))
    return sorted(found, key=lambda run: (run[0] - run[1], run[2]))


def token_of(node: Node, *, with_types: bool = True) -> Any:
    """Return a value that is equal for nodes that may be copies of each other."""
    if any(isinstance(argument, Graph) for argument in node.args):
        return node.name
    moving = {SELECT: ("index",), SELECT_SCATTER: ("index",), SLICE: ("start", "end")}.get(node.op, ())
    arguments = tuple(
        (name, "moving" if name in moving and type(argument) is int else _without_names(argument))
        for name, argument in (*enumerate(node.args), *node.kwargs.items())
    )
    types = tuple((type_.dtype, type_.shape) for type_ in node.types.values() if with_types)
    return node.op, node.module_path, node.with_gradient, arguments, types


def _without_names(argument: Argument) -> Any:
    if isinstance(argument, Value):
        return Value
    if isinstance(argument, tuple):
        return tuple(map(_without_names, argument))
    # 1, 1.0 and True are equal, and so are 0.0 and -0.0, but they are not the same argument.
    return type(argument), repr(argument) if isinstance(argument, float | complex) else argument
