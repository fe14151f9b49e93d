"""Exact criteria and float64 semantics: shapes, dtypes, NaN, repeatability, and agreement to rounding."""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np

from jaxlstm.check.cases.case import Case, Results, worst_error, worst_errors
from jaxlstm.check.criteria.criterion import Measurement, worst_of
from jaxlstm.check.subjects.program import Reference

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


RESULT_LIMIT = 1e-14
"""Largest absolute error of a float64 result. Rounding gives 2.8e-16 up to H=256 and T=1000."""

GRADIENT_LIMIT = 1e-12
"""Largest error of a float64 gradient, relative to its largest element."""

CONDITION_FACTOR = 32.0
"""The limits are at least this many times the condition."""

PERTURBATIONS = 2
"""Random perturbations from which the condition is estimated."""


def result_semantics(
    actual: Results, expected: Results, condition: Mapping[str, float], scale: float = 1.0
) -> Measurement:
    """Measure the largest absolute error, of the array that comes nearest its limit.

    ``scale`` multiplies ``RESULT_LIMIT``.
    """
    least = scale * RESULT_LIMIT
    return worst_of(
        largest_error(name, a, expected.outputs[name], max(least, CONDITION_FACTOR * condition[name]))
        for name, a in actual.outputs.items()
    )


def gradient_semantics(
    actual: Mapping[str, Array], expected: Mapping[str, Array], condition: Mapping[str, float]
) -> Measurement:
    """Measure the largest error of a gradient relative to the largest element of its array."""

    def relative(name: str) -> Measurement:
        scale = float(np.max(np.abs(expected[name]), initial=0.0)) or 1.0
        limit = max(GRADIENT_LIMIT, CONDITION_FACTOR * condition[f"d {name}"] / scale)
        return largest_error(f"d {name}", actual[name] / scale, expected[name] / scale, limit)

    return worst_of(relative(name) for name in actual)


def largest_error(name: str, actual: Array, expected: Array, limit: float) -> Measurement:
    """Measure the largest absolute error over the elements whose expected value is finite."""
    value, index = worst_error(actual, expected)
    return Measurement(value, limit, f"{name}{list(index)}" if expected.size else name)


def condition_of(reference: Reference, case: Case, truth: Results, seed: int) -> dict[str, float]:
    """Return the change of each array that rounding may cause in a right float64 run.

    It is the largest change when every number changes by one ulp. If the parameters of the reference are in
    float32, it is at least the error of the reference in float32, in proportion.
    """
    rng, gradients = np.random.default_rng([seed, 99]), truth.gradients is not None
    ulp = float(np.finfo(np.float64).eps)
    changes = [
        worst_errors(reference.perturbed(case, ulp, rng, gradients=gradients), truth)
        for _ in range(PERTURBATIONS)
    ]
    if reference.dtype == np.float32:
        in_proportion = ulp / float(np.finfo(np.float32).eps)
        errors = worst_errors(reference.run(case, np.float32, gradients=gradients), truth)
        changes.append({name: in_proportion * error for name, error in errors.items()})
    return {name: max(change[name] for change in changes) for name in changes[0]}


def relative_error(actual: Results, expected: Results) -> float:
    """Return the largest error of an output, relative to its largest element."""
    worst = 0.0
    for name, value in actual.outputs.items():
        scale = float(np.max(np.abs(expected.outputs[name]), initial=0.0)) or 1.0
        worst = max(worst, float(np.max(np.abs(value - expected.outputs[name]), initial=0.0)) / scale)
    return worst


def amplification(condition: Mapping[str, float], truth: Results) -> float:
    """Return the factor by which a change of one ulp grows on its way to the results, at most."""

    def factor(name: str, value: Array) -> float:
        largest = np.max(np.abs(value[np.isfinite(value)]), initial=0.0)
        return condition[name] / (np.spacing(1.0) * largest) if largest else 0.0

    return max(factor(name, value) for name, value in truth.outputs.items())
