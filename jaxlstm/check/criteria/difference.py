"""The differences of arrays: against rtol and atol, and of two layers whatever the order of their axes."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.case import Array, is_floating, largest, worst_error

TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
}
"""(rtol, atol) of ``torch.testing.assert_close``."""


@dataclass(frozen=True)
class LargestError:
    """The largest error of one kind, its index, and the absolute error allowed there."""

    value: float
    index: tuple[int, ...]
    allowed: float


@dataclass(frozen=True)
class ArrayDifference:
    """The difference of two arrays of one shape.

    Attributes:
      mismatched: the number of elements that differ by more than atol + rtol * abs(expected).
      total: the number of elements.
      absolute: the largest absolute error. None if the arrays are empty, like the next one.
      relative: the largest error relative to the expected value.
    """

    mismatched: int
    total: int
    absolute: LargestError | None = None
    relative: LargestError | None = None

    def __str__(self) -> str:
        if self.absolute is None or self.relative is None:
            return "empty"
        percentage = 100 * self.mismatched / self.total
        errors = {"absolute": self.absolute, "relative": self.relative}
        parts = [
            f"worst {name} error {format_number(error.value)} at {error.index} "
            f"(absolute error allowed: {format_number(error.allowed)})"
            for name, error in errors.items()
        ]
        return f"{self.mismatched} of {self.total} ({percentage:.3g} %) differ; {', '.join(parts)}"


def array_difference(
    actual: Array, expected: Array, *, rtol: float, atol: float, equal_nan: bool = False
) -> ArrayDifference:
    """Measure the difference of two arrays of one shape."""
    if actual.size == 0:
        return ArrayDifference(0, 0)
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    integers = not (is_floating(actual) or is_floating(expected))
    # Large integers are not exact in float64.
    is_equal = actual == expected if integers else a == e
    if equal_nan:
        is_equal = is_equal | (np.isnan(a) & np.isnan(e))
    with np.errstate(all="ignore"):
        error = np.maximum(np.abs(a - e), 1.0) if integers else np.abs(a - e)
        error = np.where(is_equal, 0.0, np.where(np.isnan(error), np.inf, error))
        allowed = atol + rtol * np.abs(e)
        allowed = np.where(np.isfinite(allowed), allowed, 0.0)  # Infinity must be met exactly.
        relative = np.where(is_equal, 0.0, error / np.abs(e))
        relative = np.where(np.isnan(relative), np.inf, relative)

    def place(values: Array) -> LargestError:
        index = np.unravel_index(int(np.argmax(values)), values.shape)
        return LargestError(float(values[index]), tuple(int(k) for k in index), float(allowed[index]))

    mismatched = int(np.count_nonzero(error > allowed))
    return ArrayDifference(mismatched, error.size, place(error), place(relative))


def default_tolerance(actual: Array, expected: Array) -> tuple[float, float]:
    """Return (rtol, atol) for the coarser of the two dtypes; zeros for integers and bools."""
    return max(TOLERANCES.get(array.dtype.name, (0.0, 0.0)) for array in (actual, expected))


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
    errors = (worst_error(*arrays)[0] for arrays in _arrangements(ours, theirs, ragged))
    return min(errors, default=math.inf) / largest(theirs)


def _arrangements(ours: Array, theirs: Array, ragged: bool) -> Iterator[tuple[Array, Array]]:
    """Yield both arrays in the layouts in which they have the same shape."""
    for axes in itertools.permutations(range(theirs.ndim)):
        expected = theirs.transpose(axes)
        actual = without_padding(ours, expected.shape) if ragged else ours
        if actual.shape == expected.shape:
            yield actual, expected
    if ours.ndim != theirs.ndim and ours.size == theirs.size and ours.shape[-1:] == theirs.shape[-1:] != ():
        yield from itertools.product(_merged(ours), _merged(theirs))


def _merged(array: Array) -> list[Array]:
    """Return the array with all axes but the last merged, in each order."""
    last = array.ndim - 1
    orders = itertools.permutations(range(last))
    return [array.transpose(*order, last).reshape(-1, array.shape[last]) for order in orders]


def without_padding(array: Array, shape: tuple[int, ...]) -> Array:
    """Return the array cut to a shape, if exactly one axis is longer."""
    if array.ndim != len(shape) or sum(a != b for a, b in zip(array.shape, shape, strict=True)) > 1:
        return array
    return array[tuple(map(slice, shape))]
