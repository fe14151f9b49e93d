"""The distance of the arrays of two layers, whatever the order of their axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

Array = np.ndarray

EQUAL = 1e-9
"""Distance in float64, relative to the largest element, within which two outputs are equal."""

AGREEMENT = {"float64": EQUAL, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Distance, relative to the size of an array, within which two implementations agree, by dtype."""


def distance(ours: Sequence[Array], theirs: Sequence[Array], ragged: bool = False) -> float:
    """Return the largest difference of two lists of arrays, relative to the largest element of each.

    Axes may be permuted, as between channels first and last, and one side may have merged all axes but the
    last, as torch's models do before a linear layer. Arrays of other sizes are infinitely distant.
    If ``ragged`` is true, one axis of ours may be longer: the padding after torch's longest sequence.
    """
    floats = [[np.asarray(a, np.float64) for a in arrays if a.dtype.kind != "b"] for arrays in (ours, theirs)]
    if not floats[0] or not floats[1]:
        return math.inf if len(floats[0]) != len(floats[1]) else 0.0
    return max((_array_distance(a, b, ragged) for a, b in zip(*floats, strict=False)), default=0.0)


def shape_of(outputs: Sequence[Array]) -> tuple[int, ...]:
    """Return the shape of the first output, or ``()`` without one."""
    return tuple(outputs[0].shape) if outputs else ()


def _array_distance(ours: Array, theirs: Array, ragged: bool) -> float:
    scale = float(np.max(np.abs(theirs), initial=0.0, where=np.isfinite(theirs))) or 1.0
    best = math.inf
    for actual, expected in _arrangements(ours, theirs, ragged):
        with np.errstate(invalid="ignore"):
            error = np.abs(actual - expected)
        error = np.where(np.isfinite(expected), error, 0.0)
        error[np.isnan(error)] = np.inf
        best = min(best, float(np.max(error, initial=0.0)) / scale)
    return best


def _arrangements(ours: Array, theirs: Array, ragged: bool) -> Iterator[tuple[Array, Array]]:
    """Yield both arrays in the layouts in which they have the same shape."""
    for axes in itertools.permutations(range(theirs.ndim)):
        expected = theirs.transpose(axes)
        actual = _without_padding(ours, expected.shape) if ragged else ours
        if actual.shape == expected.shape:
            yield actual, expected
    if ours.ndim != theirs.ndim and ours.size == theirs.size and ours.shape[-1:] == theirs.shape[-1:] != ():
        yield from itertools.product(_merged(ours), _merged(theirs))


def _merged(array: Array) -> list[Array]:
    """Return the array with all axes but the last merged, in each order."""
    last = array.ndim - 1
    orders = itertools.permutations(range(last))
    return [array.transpose(*order, last).reshape(-1, array.shape[last]) for order in orders]


def _without_padding(array: Array, shape: tuple[int, ...]) -> Array:
    """Return the array cut to a shape, if exactly one axis is longer."""
    if array.ndim != len(shape) or sum(a != b for a, b in zip(array.shape, shape, strict=True)) > 1:
        return array
    return array[tuple(map(slice, shape))]
