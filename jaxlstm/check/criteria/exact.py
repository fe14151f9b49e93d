"""Criteria without a tolerance: shapes, dtypes, the positions of NaN and infinity, and repeatability.

Each function describes the problem in words and returns an empty string if there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlstm.check.reference.results import Results

Array = np.ndarray


def shape_and_dtype(actual: Results, expected: Results, dtype: Any) -> str:
    """Describe every array whose shape or dtype is wrong."""
    theirs = dict(expected.leaves())
    problems = []
    for name, value in actual.leaves():
        if value.shape != theirs[name].shape:
            problems.append(f"{name} has shape {value.shape}, expected {theirs[name].shape}")
        if value.dtype != np.dtype(dtype):
            problems.append(f"{name} has dtype {value.dtype}, expected {np.dtype(dtype)}")
    return "; ".join(problems)


def nan_mask(actual: Results, expected: Results) -> str:
    """Describe every array in which NaN and infinity are not where they are expected."""
    theirs = dict(expected.leaves())
    problems = []
    for name, value in actual.leaves():
        differ = _kind(value) != _kind(theirs[name])
        if np.any(differ):
            index = tuple(int(k) for k in np.argwhere(differ)[0])
            problems.append(
                f"{name}: {np.count_nonzero(differ)} of {differ.size} elements differ, the first at "
                f"{index}: {value[index]}, expected {theirs[name][index]}"
            )
    return "; ".join(problems)


def repeatability(first: Results, second: Results) -> str:
    """Name the arrays that differ between two calls with the same arguments.

    A port whose results differ keeps state between calls.
    """
    again = second.arrays()
    differ = [
        name
        for name, a in first.arrays().items()
        if not np.array_equal(a.astype(np.float64), again[name].astype(np.float64), equal_nan=True)
    ]
    return f"a second call returned different values of {', '.join(differ)}" if differ else ""


def _kind(values: Array) -> Array:
    """Map finite numbers to 0, NaN to 1, and the infinities to 2 and 3."""
    values = np.asarray(values, np.float64)
    return np.isnan(values) * 1 + np.isposinf(values) * 2 + np.isneginf(values) * 3
