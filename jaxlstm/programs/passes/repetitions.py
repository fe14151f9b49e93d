"""Runs of nodes that repeat, as an export leaves them of a loop in the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Argument, Graph, Node, Value
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.passes.loop_copies import SELECT, SELECT_SCATTER, SLICE

LONGEST_BODY = 1_000


def repetitions(nodes: Sequence[Node], fewest: int) -> list[tuple[int, int, int]]:
    """Return (start, end, length of a copy) of each run of at least ``fewest`` copies, the longest first."""
    numbers: dict[Any, int] = {}
    tokens = np.array([numbers.setdefault(token_of(node), len(numbers)) for node in nodes])
    runs = []
    for period in range(1, min(len(nodes) // fewest, LONGEST_BODY) + 1):
        equal = np.concatenate([[False], tokens[period:] == tokens[:-period], [False]])
        starts, ends = np.flatnonzero(np.diff(equal)).reshape(-1, 2).T
        for start, length in zip(starts.tolist(), (ends - starts).tolist(), strict=True):
            if length // period + 1 >= fewest:
                runs.append((start, start + length + period, period))
    return sorted(runs, key=lambda run: (run[0] - run[1], run[2]))


def token_of(node: Node, *, with_types: bool = True) -> Any:
    """Return a value that is equal for nodes that may be copies of each other.

    Assertions are never copies of each other: under ``jit`` a program must see the values that they assert.
    """
    if node.op in ASSERTIONS or any(isinstance(argument, Graph) for argument in node.args):
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
