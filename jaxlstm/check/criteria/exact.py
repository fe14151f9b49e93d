"""Criteria without a tolerance: shapes, dtypes, the positions of NaN and infinity, and repeatability.

Each function describes the problem in words and returns an empty string if there is none.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from jaxlstm.check.cases.case import Results

Array = np.ndarray


def names(noun: str, actual: Results, expected: Results, optional: Container[str] = ()) -> str:
    """Describe outputs that only one side has; ``optional`` ones may be missing.

    ``noun`` is what returned the actual ones. They may come in any order, since ``jax.jit`` sorts the keys of
    a dict.
    """
    required = {name for name in expected.outputs if name not in optional}
    if required <= actual.outputs.keys() <= expected.outputs.keys():
        return ""
    ours, theirs = (", ".join(results.outputs) or "nothing" for results in (actual, expected))
    return f"the {noun} returns {ours}, expected {theirs}"


def shape_and_dtype(actual: Results, expected: Results, *, dtypes: bool = True) -> str:
    """Describe every output whose shape or, with ``dtypes``, dtype is wrong. Integers may have any width."""
    problems = []
    for name, value in actual.outputs.items():
        wanted = expected.outputs[name]
        if value.shape != wanted.shape:
            problems.append(f"{name} has shape {value.shape}, expected {wanted.shape}")
        integers = value.dtype.kind in "iu" and wanted.dtype.kind in "iu"
        if dtypes and value.dtype != wanted.dtype and not integers:
            problems.append(f"{name} has dtype {value.dtype}, expected {wanted.dtype}")
    return "; ".join(problems)


def nan_mask(actual: Results, expected: Results) -> str:
    """Describe every array in which NaN and infinity are not where they are expected."""
    problems = []
    for name, value in actual.outputs.items():
        differ = _kind(value) != _kind(expected.outputs[name])
        if np.any(differ):
            index = tuple(int(k) for k in np.argwhere(differ)[0])
            problems.append(
                f"{name}: {np.count_nonzero(differ)} of {differ.size} elements differ, the first at "
                f"{index}: {value[index]}, expected {expected.outputs[name][index]}"
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
