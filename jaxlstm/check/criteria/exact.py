"""Criteria without a tolerance: shapes, dtypes, the positions of NaN and infinity, and repeatability.

Each function describes the problem in words and returns an empty string if there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlstm.check.reference.results import NamedArrays

Array = np.ndarray


def shape_and_dtype(actual: NamedArrays, expected: NamedArrays, dtype: Any = None) -> str:
    """Describe every array whose shape or dtype is wrong.

    The dtype is ``dtype`` or, if that is None, the expected one; integers may then have any width.
    """
    theirs = dict(expected.leaves())
    problems = []
    for name, value in actual.leaves():
        if value.shape != theirs[name].shape:
            problems.append(f"{name} has shape {value.shape}, expected {theirs[name].shape}")
        wanted = theirs[name].dtype if dtype is None else np.dtype(dtype)
        integers = dtype is None and value.dtype.kind in "iu" and wanted.kind in "iu"
        if value.dtype != wanted and not integers:
            problems.append(f"{name} has dtype {value.dtype}, expected {wanted}")
    return "; ".join(problems)


def nan_mask(actual: NamedArrays, expected: NamedArrays) -> str:
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


def repeatability(first: NamedArrays, second: NamedArrays) -> str:
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
