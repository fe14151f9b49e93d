"""The difference of two arrays, measured against rtol and atol."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import ml_dtypes
import numpy as np

from jaxlstm._shared.table import format_number

Array = np.ndarray

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
        share = 100 * self.mismatched / self.total
        errors = {"absolute": self.absolute, "relative": self.relative}
        parts = [
            f"worst {name} error {format_number(error.value)} at {error.index} "
            f"(absolute error allowed: {format_number(error.allowed)})"
            for name, error in errors.items()
        ]
        return f"{self.mismatched} of {self.total} ({share:.3g} %) differ; {', '.join(parts)}"


def array_difference(
    actual: Array, expected: Array, *, rtol: float, atol: float, equal_nan: bool = False
) -> ArrayDifference:
    """Measure the difference of two arrays of one shape."""
    if actual.size == 0:
        return ArrayDifference(0, 0)
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    integers = not (_is_float(actual.dtype) or _is_float(expected.dtype))
    # Large integers are not exact in float64.
    agree = actual == expected if integers else a == e
    if equal_nan:
        agree = agree | (np.isnan(a) & np.isnan(e))
    with np.errstate(all="ignore"):
        error = np.maximum(np.abs(a - e), 1.0) if integers else np.abs(a - e)
        error = np.where(agree, 0.0, np.where(np.isnan(error), np.inf, error))
        allowed = atol + rtol * np.abs(e)
        allowed = np.where(np.isfinite(allowed), allowed, 0.0)  # Infinity must be met exactly.
        relative = np.where(agree, 0.0, error / np.abs(e))
        relative = np.where(np.isnan(relative), np.inf, relative)

    def largest(values: Array) -> LargestError:
        index = np.unravel_index(int(np.argmax(values)), values.shape)
        return LargestError(float(values[index]), tuple(int(k) for k in index), float(allowed[index]))

    mismatched = int(np.count_nonzero(error > allowed))
    return ArrayDifference(mismatched, error.size, largest(error), largest(relative))


def default_tolerance(actual: Array, expected: Array) -> tuple[float, float]:
    """Return (rtol, atol) for the coarser of the two dtypes; zeros for integers and bools."""
    return TOLERANCES.get(coarser_dtype(actual, expected).name, (0.0, 0.0))


def coarser_dtype(actual: Array, expected: Array) -> np.dtype:
    """Return the dtype with fewer bits of mantissa; integers and bools count as exact."""

    def mantissa(dtype: np.dtype) -> int:
        return ml_dtypes.finfo(dtype).nmant if _is_float(dtype) else 1_000

    return min((actual.dtype, expected.dtype), key=mantissa)


def _is_float(dtype: np.dtype) -> bool:
    return bool(jax.numpy.issubdtype(dtype, np.floating))
