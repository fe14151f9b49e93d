"""Measures of accuracy: the exact ones, float64 semantics, and the RMS error in the working dtype.

In float64, a right subject agrees with the references to rounding. Large weights magnify rounding. The limits
therefore grow with the condition of a case: the change of the reference's results when every number in the
call changes by one ulp.

The unit of the RMS error is the largest error of correct implementations, so that one lucky implementation
does not fail the others: torch, for an LSTM two evaluations of the equations in NumPy, for a model torch
without oneDNN, and the float64 truth rounded to the working dtype.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxlstm.check.cases.case import (
    Array,
    Case,
    Results,
    is_discrete,
    is_floating,
    largest,
    worst_error,
    worst_errors,
)
from jaxlstm.check.cases.rounding import Rounding, Whole
from jaxlstm.check.criteria.criterion import Measurement, RmsRatio, worst_of
from jaxlstm.check.reference.program import Reference


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
        reference = expected.outputs[name]
        if value.shape != reference.shape:
            problems.append(f"{name} has shape {value.shape}, expected {reference.shape}")
        integers = value.dtype.kind in "iu" and reference.dtype.kind in "iu"
        if dtypes and value.dtype != reference.dtype and not integers:
            problems.append(f"{name} has dtype {value.dtype}, expected {reference.dtype}")
    return "; ".join(problems)


def nan_mask(actual: Results, expected: Results, *, whole: bool = False) -> str:
    """Describe every array in which NaN and infinity are not where they are expected.

    With ``whole``, it is enough that both arrays have NaN or neither: right models may mask it elsewhere.
    """
    problems = []
    for name, value in actual.outputs.items():
        if whole:
            ours, theirs = ((_kind(a) == 1).any() for a in (value, expected.outputs[name]))
            problems += [f"{name} {'has' if ours else 'lacks'} NaN"] if ours != theirs else []
            continue
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
    second_arrays = second.arrays()
    differ = [
        name
        for name, a in first.arrays().items()
        if not np.array_equal(a.astype(np.float64), second_arrays[name].astype(np.float64), equal_nan=True)
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

DECISION = 1e-6
"""Relative effect of an ulp above which a mask or a count that moved may have changed a decision."""


APART = 2.0**-40
"""Relative distance of equal numbers that are moved apart: ``exp`` of small ones would absorb an ulp."""


def result_semantics(
    actual: Results, expected: Results, condition: Mapping[str, float], scale: float = 1.0
) -> Measurement:
    """Measure the largest absolute error of the array that is nearest to its limit.

    ``scale`` multiplies ``RESULT_LIMIT``.
    """
    base_limit = scale * RESULT_LIMIT
    return worst_of(
        largest_error(name, a, expected.outputs[name], max(base_limit, CONDITION_FACTOR * condition[name]))
        for name, a in actual.outputs.items()
    )


def gradient_semantics(
    actual: Mapping[str, Array], expected: Mapping[str, Array], condition: Mapping[str, float]
) -> Measurement:
    """Measure the largest error of a gradient relative to the largest element of its array."""

    def relative(name: str) -> Measurement:
        scale = largest(expected[name])
        limit = max(GRADIENT_LIMIT, CONDITION_FACTOR * condition[f"d {name}"] / scale)
        return largest_error(f"d {name}", actual[name] / scale, expected[name] / scale, limit)

    return worst_of(relative(name) for name in actual)


def largest_error(name: str, actual: Array, expected: Array, limit: float) -> Measurement:
    """Measure the largest absolute error over the elements whose expected value is finite."""
    value, index = worst_error(actual, expected)
    return Measurement(value, limit, f"{name}{list(index)}" if expected.size else name)


class Condition(NamedTuple):
    """The change of each array that rounding may cause in a right float64 run.

    Attributes:
      changes: the change by array, as large as those gradients that equal numbers may share in any way.
      whole: how whole numbers move to measure rounding.
      tied: the names of those gradients.
    """

    changes: dict[str, float]
    whole: Whole
    tied: set[str]


def condition_of(reference: Reference, case: Case, truth: Results, seed: int) -> Condition:
    """Measure the largest change of each array when every number changes by one ulp.

    A mask of 0 and 1 has no rounding error, and ``mask == 1`` is false after an ulp: if the results change
    much, whole numbers stay as they are. They also stay if a gradient changes much although equal numbers
    stay equal, as at a kink. If it does not, equal numbers compete, as in ``topk``, and any of them may have
    the gradient. If the parameters of the reference are in float32, the change is at least the error of the
    reference in float32, in proportion.
    """
    rng, gradients, exact = np.random.default_rng([seed, 99]), truth.gradients is not None, truth.arrays()
    ulp = float(np.finfo(np.float64).eps)

    def changes(whole: Whole, sizes: Sequence[float] = (ulp,) * PERTURBATIONS) -> list[dict[str, float]]:
        roundings = (Rounding(size, rng, whole) for size in sizes)
        runs = (reference.perturbed(case, rounding, gradients=gradients) for rounding in roundings)
        return [worst_errors(run, truth) for run in runs]

    def jumps(runs: Sequence[dict[str, float]]) -> set[str]:
        return {name for c in runs for name, error in c.items() if error > DECISION * largest(exact[name])}

    samples, whole, tied = changes("except zeros"), "except zeros", set[str]()
    both = (APART, -APART)  # Of two equal numbers, each is the larger one in one of the runs.
    floats = [a for a in case.arrays.values() if is_floating(a)]
    may_tie = any(is_discrete(a) or np.unique(a).size < a.size for a in floats)
    if jumped := jumps(samples + (changes("apart", both) if may_tie else [])):
        if not may_tie or jumped & truth.outputs.keys() or jumps(changes("alike", both)):
            samples, whole = changes("not"), "not"
        else:
            tied = jumped
    if reference.dtype == np.float32:
        in_proportion = ulp / float(np.finfo(np.float32).eps)
        errors = worst_errors(reference.run(case, np.float32, gradients=gradients), truth)
        samples.append({name: in_proportion * error for name, error in errors.items()})
    largest_changes = {name: max(change[name] for change in samples) for name in samples[0]}
    return Condition(largest_changes | {name: largest(exact[name]) for name in tied}, whole, tied)


def amplification(condition: Mapping[str, float], truth: Results) -> float:
    """Return the factor by which a change of one ulp grows on its way to the results, at most."""

    def factor(name: str, value: Array) -> float:
        largest = np.max(np.abs(value[np.isfinite(value)]), initial=0.0)
        return condition[name] / (np.spacing(1.0) * largest) if largest else 0.0

    return max(factor(name, value) for name, value in truth.outputs.items())


MEAN_LIMIT, MEAN_LIMIT_FEW, FEW = 2.0, 4.0, 1000
"""Limit of the geometric mean of the ratios; the second applies below FEW elements."""

ARRAY_LIMIT = 16.0
"""Limit of a single array of one case, in which few roundings decide. Correct ports reach 6."""

FLUSHED = float(np.finfo(np.float32).tiny)
"""XLA replaces smaller numbers by zero, torch does not."""


def rms_ratio(
    where: str, actual: Array, truth: Array, correct: Sequence[Array], torch: Array | None
) -> RmsRatio:
    """Measure the RMS error of an array and of the correct implementations, where all of them are finite."""
    truth = np.where(np.all([np.isfinite(np.asarray(a, np.float64)) for a in correct], axis=0), truth, np.nan)
    theirs = None if torch is None else rms_error(torch, truth)
    errors = [rms_error(a, truth) for a in (*correct, truth.astype(actual.dtype))]
    ours = rms_error(actual, truth)
    own = max(*errors, theirs or 0.0, min(ours, FLUSHED))
    return RmsRatio(where, int(np.count_nonzero(np.isfinite(truth))), ours, theirs, own)


def mean_ratio(ratios: Sequence[RmsRatio]) -> Measurement:
    """Measure the geometric mean over all arrays and cases with ``in_mean``."""
    ratios = [ratio for ratio in ratios if ratio.in_mean] or ratios
    values = np.array([max(r.value, 1e-3) for r in ratios])
    against_torch = [max(r.ours, r.own * 1e-3) / r.torch for r in ratios if r.torch and r.own]
    size = sum(r.size for r in ratios)
    where = f"{size} elements in {len(ratios)} arrays"
    if against_torch:
        where += f"; {_geometric_mean(against_torch):.3g} times the error of torch"
    limit = MEAN_LIMIT_FEW if size < FEW else MEAN_LIMIT
    return Measurement(_geometric_mean(values), limit, where)


def worst_ratio(ratios: Sequence[RmsRatio]) -> Measurement:
    """Measure the worst array of one case."""
    worst = max(ratios, key=lambda r: np.inf if np.isnan(r.value) else r.value)
    where = f"{worst.where}: {worst.ours:.2e}, correct implementations {worst.own:.2e}"
    return Measurement(worst.value, ARRAY_LIMIT, where)


def _geometric_mean(values: Any) -> float:
    return float(np.exp(np.mean(np.log(values))))


def rms_error(value: Array, truth: Array) -> float:
    """Return the RMS error of an array where the truth is finite."""
    finite = np.isfinite(truth)
    if not finite.any():
        return 0.0
    error = np.asarray(value, np.float64)[finite] - truth[finite]
    return float(np.sqrt(np.mean(error**2)))


RUNS = 8
"""Perturbed runs of each of the two sizes."""

KINK = 4.0
"""Near a kink, the error is this many times the one in proportion to the change; elsewhere at most 1.5."""

Perturbed = Callable[[float], Results]
"""Runs torch in float64 with every number in the call changed by a relative size."""


def with_rounding_as_unit(
    ratios: Mapping[str, RmsRatio], truth: Results, dtype: Any, perturbed: Perturbed
) -> dict[str, RmsRatio]:
    """Return the ratios of one case; if they fail, with the error of rounding as the unit of large ones.

    Torch's own error of a model is one sample. An array of few elements may have almost no error by chance,
    and near a kink, such as a ReLU at 0, one run of a right model may take the other side. Runs of torch in
    float64 in which every number was changed by rounding, and the rounding of the results, by which XLA's
    functions may differ from torch's, therefore replace torch's error, only in the arrays that exceed a
    limit. No array counts as better than torch because of them.
    """
    # The gradients must not make up for the results, or the reverse: each have their own criterion.
    results = [ratio for name, ratio in ratios.items() if name in truth.outputs]
    gradients = [ratio for name, ratio in ratios.items() if name not in truth.outputs]
    groups = [group for group in (results, gradients) if group]
    # All cases together may have many elements, for which the smaller limit applies.
    if all(mean_ratio(group).value <= MEAN_LIMIT and worst_ratio(group).ok for group in groups):
        return dict(ratios)
    eps = float(ml_dtypes.finfo(dtype).eps)
    # A change of 2**7 ulp of float64 crosses no kink, and the errors that it causes are proportional to it.
    small = float(np.finfo(np.float64).eps) * 2**7
    small_runs, eps_runs = [perturbed(small) for _ in range(RUNS)], [perturbed(eps) for _ in range(RUNS)]
    exact = truth.arrays()

    def errors(runs: Sequence[Results], name: str) -> list[float]:
        return [rms_error(run.arrays()[name], exact[name]) for run in runs]

    def reconsidered(name: str, ratio: RmsRatio) -> RmsRatio:
        if not ratio.value > MEAN_LIMIT:
            return ratio
        typical = float(np.sqrt(np.mean(np.square(errors(small_runs, name))))) * eps / small
        largest = max(errors(eps_runs, name))
        # One rounding changes a number by at most eps / 2: each argument, and each result.
        rounded = rms_error(exact[name] * (1 + eps / 2), exact[name])
        unit = (largest if largest > KINK * typical else typical / 2) + rounded
        return ratio._replace(own=min(max(ratio.own, unit), ratio.ours))

    return {name: reconsidered(name, ratio) for name, ratio in ratios.items()}
