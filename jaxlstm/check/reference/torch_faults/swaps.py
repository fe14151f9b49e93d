"""Faults of two operations: swapped weights, and swapped order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Replacement

_WEIGHTS = ("weight", "bias", "params", "running_mean", "running_var")
_ELEMENTWISE = {
    *("relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "dropout"),
    *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "max_pool2d", "avg_pool2d"),
}
"""Operations of one tensor that keep its number of channels."""


def swaps(operations: Sequence[Operation]) -> Iterator[tuple[str, Mapping[int, Replacement]]]:
    """Yield the cause and the replacements of each swap that fits."""
    for (i, a), (j, b) in itertools.combinations(enumerate(operations), 2):
        if a.name == b.name and _fit(a, b):
            cause = f"the weights of {a.where} and {b.where} are swapped"
            yield cause, {i: _with_weights_of(b), j: _with_weights_of(a)}
    for (i, a), (j, b) in itertools.pairwise(enumerate(operations)):
        if a.name != b.name and {a.name, b.name} <= _ELEMENTWISE:
            yield f"{b.where} comes before {a.where}", {i: _instead(b), j: _instead(a)}


def _fit(a: Operation, b: Operation) -> bool:
    """Return True if two operations have different weights of equal shapes."""
    mine, others = _weights(a), _weights(b)
    if mine.keys() != others.keys() or not mine:
        return False
    pairs = list(zip(_tensors(mine), _tensors(others), strict=False))
    return all(x.shape == y.shape for x, y in pairs) and any(x is not y for x, y in pairs)


def _weights(operation: Operation) -> dict[str, Any]:
    return {name: operation.get(name) for name in _WEIGHTS if operation.get(name) is not None}


def _tensors(weights: Mapping[str, Any]) -> list[Any]:
    return [t for value in weights.values() for t in (value if isinstance(value, (list, tuple)) else [value])]


def _with_weights_of(other: Operation) -> Replacement:
    return lambda operation: operation.run(**_weights(other))


def _instead(other: Operation) -> Replacement:
    return lambda operation: other.run(input=operation.get("input"))
