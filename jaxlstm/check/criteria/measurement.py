"""A measured number and its limit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxlstm.check.reference.results import NamedArrays

Array = np.ndarray


class Measurement(NamedTuple):
    """A measured value, its limit, and the place of the worst element."""

    value: float
    limit: float
    where: str

    @property
    def ok(self) -> bool:
        """True if the value is within its limit. NaN is not."""
        return self.value <= self.limit

    @property
    def excess(self) -> float:
        """The value in units of its limit."""
        return self.value / self.limit if self.limit else np.inf * self.value


def worst_of(measurements: Iterable[Measurement]) -> Measurement:
    """Return the measurement with the largest excess; NaN counts as infinite."""
    return max(measurements, key=lambda m: np.inf if np.isnan(m.value) else m.excess)


def largest_error(name: str, actual: Array, expected: Array, limit: float) -> Measurement:
    """Measure the largest absolute error over the elements whose expected value is finite.

    A NaN in ``actual`` counts as an infinite error.
    """
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if not e.size:
        return Measurement(0.0, limit, name)
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(e), np.abs(a - e), 0.0)
    error[np.isnan(error)] = np.inf
    index = tuple(int(k) for k in np.unravel_index(int(np.argmax(error)), error.shape))
    return Measurement(float(error[index]), limit, f"{name}{list(index)}")


def largest_errors(actual: NamedArrays, expected: NamedArrays) -> dict[str, float]:
    """Return the largest absolute error of each array, gradients included."""
    theirs = expected.arrays()
    return {name: largest_error(name, a, theirs[name], np.inf).value for name, a in actual.arrays().items()}
