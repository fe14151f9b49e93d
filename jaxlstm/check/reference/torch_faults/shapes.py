"""Faults of the order in which axes are merged, split and concatenated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant


def reshaping(operation: Operation) -> Iterator[Variant]:
    """Yield the other orders in which ``flatten``, ``view`` or ``reshape`` may merge or split axes."""
    source = tuple(operation.positional[0].shape if operation.positional else operation.get("input").shape)
    target = tuple(operation.run().shape)
    for old, new in _groups(source, target):
        if len(old) > 1 and len(new) == 1:
            for order in itertools.permutations(old):
                if order != old and _orders_values(source, old, order):
                    cause = f"{{where}} merges axes {_listed(old)} in the order {_listed(order)}"
                    yield Variant(cause, lambda op, axes=(old, order): _merge(op, *axes))
        elif len(old) == 1 and len(new) > 1:
            for order in itertools.permutations(new):
                if order != new and _orders_values(target, new, order):
                    cause = f"{{where}} splits axis {old[0]} in the order {_listed(order)}"
                    yield Variant(cause, lambda op, axes=(new, order): _split(op, *axes))


def concatenation(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a concatenation in the reverse order."""
    if len(operation.get("tensors", ())) > 1:
        yield Variant(
            "{where} has its parts in the reverse order",
            lambda op: op.run(tensors=list(op.get("tensors"))[::-1]),
        )


def addition(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of a sum that lacks one of two tensors."""
    tensors = operation.positional[:2]
    if len(tensors) == 2 and all(hasattr(t, "shape") for t in tensors):
        yield Variant("{where} lacks its first summand", lambda op: op.positional[1])
        yield Variant("{where} lacks its second summand", lambda op: op.positional[0])


def _groups(
    source: tuple[int, ...], target: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the axes of a source shape and those of the target shape that hold the same elements."""
    if math.prod(source) != math.prod(target) or 0 in source:
        return
    i = j = 0
    while i < len(source) and j < len(target):
        first_i, first_j = i, j
        left, right = source[i], target[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * source[i], i + 1
            else:
                right, j = right * target[j], j + 1
        yield tuple(range(first_i, i)), tuple(range(first_j, j))


def _orders_values(shape: tuple[int, ...], axes: tuple[int, ...], order: tuple[int, ...]) -> bool:
    """Return True if another order of some axes changes the order of the values."""
    long = [axis for axis in axes if shape[axis] > 1]
    return [axis for axis in order if axis in long] != long


def _merge(operation: Operation, axes: tuple[int, ...], order: tuple[int, ...]) -> Any:
    x = operation.positional[0] if operation.positional else operation.get("input")
    target = operation.run().shape
    permuted = list(range(x.ndim))
    permuted[axes[0] : axes[-1] + 1] = order
    return x.permute(permuted).reshape(target)


def _split(operation: Operation, axes: tuple[int, ...], order: tuple[int, ...]) -> Any:
    """Split an axis into sizes in another order, and move the new axes into place."""
    result = operation.run()
    sizes, permuted = list(result.shape), list(range(result.ndim))
    sizes[axes[0] : axes[-1] + 1] = [result.shape[axis] for axis in order]
    for position, axis in zip(axes, order, strict=True):
        permuted[axis] = position
    return result.reshape(sizes).permute(permuted)


def _listed(axes: tuple[int, ...]) -> str:
    return ", ".join(map(str, axes))
