"""Float64 semantics: in float64, a correct port agrees with the references to rounding.

Large weights magnify rounding. The limits therefore grow with the condition of a case: the change of the
oracle's results when every number in the call changes by one ulp, and every sigmoid by 2^-53. Many libraries
compute sigmoid through tanh, so a gate near 0 has an absolute error of that size, and multiplies a c of up to
10,000.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm.check.criteria.measurement import Measurement, largest_error, largest_errors, worst_of
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.results import NamedArrays, Results, oracle_results
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray

RESULT_LIMIT = 1e-14
"""Largest absolute error of a float64 result. Rounding gives 2.8e-16 up to H=256 and T=1000."""

GRADIENT_LIMIT = 1e-12
"""Largest error of a float64 gradient, relative to its largest element."""

CONDITION_FACTOR = 32.0
"""The limits are at least this many times the condition."""

TRIALS = 2
"""Random perturbations from which the condition is estimated."""


def result_semantics(
    actual: NamedArrays, expected: NamedArrays, condition: Mapping[str, float], scale: float = 1.0
) -> Measurement:
    """Measure the largest absolute error, of the array that comes nearest its limit.

    ``scale`` multiplies ``RESULT_LIMIT``.
    """
    theirs, least = dict(expected.leaves()), scale * RESULT_LIMIT
    return worst_of(
        largest_error(name, value, theirs[name], max(least, CONDITION_FACTOR * condition[name]))
        for name, value in actual.leaves()
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


def condition_of(
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    truth: Results,
    rng: np.random.Generator,
    *,
    gradients: bool,
) -> dict[str, float]:
    """Return the largest change of each array under :func:`perturbed_results`."""
    trials = [
        largest_errors(perturbed_results(params, config, case, rng, gradients=gradients), truth)
        for _ in range(TRIALS)
    ]
    return {name: max(trial[name] for trial in trials) for name in trials[0]}


def perturbed_results(
    params: Mapping[str, Any], config: LSTMConfig, case: Case, rng: np.random.Generator, *, gradients: bool
) -> Results:
    """Return the oracle's results after every number of the call has changed by one ulp.

    Every sigmoid changes by 2^-53, the spacing of the numbers below 1.
    """

    def signs(a: Array) -> Array:
        return rng.choice([-1.0, 1.0], a.shape)

    def perturb(a: Any) -> Array:
        a = np.asarray(a).astype(np.float64)
        return a * (1 + np.spacing(1.0) * signs(a))

    def sigmoid(z: Array) -> Array:
        return oracle.sigmoid(z) + 2.0**-53 * signs(z)

    case = case.map(perturb)
    params = {name: perturb(a) for name, a in params.items()}
    equations = dataclasses.replace(oracle.CORRECT, sigmoid=sigmoid)
    return oracle_results(params, config, case, gradients=gradients, equations=equations)


def amplification(condition: Mapping[str, float], truth: Results) -> float:
    """Return the factor by which a change of one ulp grows on its way to the results, at most."""

    def factor(name: str, value: Array) -> float:
        largest = np.max(np.abs(value[np.isfinite(value)]), initial=0.0)
        return condition[name] / (np.spacing(1.0) * largest) if largest else 0.0

    return max(factor(name, value) for name, value in truth.leaves())
