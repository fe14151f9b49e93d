"""The RMS error in the working dtype, relative to the error of correct implementations.

Correct implementations are torch, for an LSTM two evaluations of the equations in NumPy, for a model torch
without oneDNN, and the float64 truth rounded to the working dtype. The largest of their errors is the unit,
so that one lucky implementation does not fail the others.

Torch's own error of a model is one sample. An array of few elements may have almost no error by chance, and
near a kink, such as a ReLU at 0, one run of a right model may take the other side. A failure is therefore
compared with runs of torch in float64 in which every number was changed by rounding. They replace torch's
error only in the arrays that exceed a limit, and no array counts as better than torch because of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.check.cases.case import Results
from jaxlstm.check.criteria.criterion import Measurement, RmsRatio

Array = np.ndarray

MEAN_LIMIT, MEAN_LIMIT_FEW, FEW = 2.0, 4.0, 1000
"""Limit of the geometric mean of the ratios; the second applies below FEW elements."""

ARRAY_LIMIT = 16.0
"""Limit of a single array of one case, in which few roundings decide. Correct ports reach 6."""


def rms_ratio(
    where: str, actual: Array, truth: Array, correct: Sequence[Array], torch: Array | None
) -> RmsRatio:
    """Measure the RMS error of an array and of the correct implementations, where the truth is finite."""
    theirs = None if torch is None else rms_error(torch, truth)
    errors = [rms_error(a, truth) for a in (*correct, truth.astype(actual.dtype))]
    own = max(*errors, theirs or 0.0)
    return RmsRatio(where, int(np.count_nonzero(np.isfinite(truth))), rms_error(actual, truth), theirs, own)


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
    usable = np.isfinite(truth)
    if not usable.any():
        return 0.0
    error = np.asarray(value, np.float64)[usable] - truth[usable]
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

    Args:
      ratios: the ratios by the name of the array.
      truth: torch's results in float64.
      dtype: the working dtype.
      perturbed: runs torch in float64 with every number changed by a relative size.
    """
    found = list(ratios.values())
    if not found or (mean_ratio(found).ok and worst_ratio(found).ok):
        return dict(ratios)
    eps = float(ml_dtypes.finfo(dtype).eps)
    # A change of 2**7 ulp of float64 crosses no kink, and the errors that it causes are proportional to it.
    small = float(np.finfo(np.float64).eps) * 2**7
    few, many = [perturbed(small) for _ in range(RUNS)], [perturbed(eps) for _ in range(RUNS)]
    exact = truth.arrays()

    def errors(runs: Sequence[Results], name: str) -> list[float]:
        return [rms_error(run.arrays()[name], exact[name]) for run in runs]

    def reconsidered(name: str, ratio: RmsRatio) -> RmsRatio:
        if not ratio.value > MEAN_LIMIT:
            return ratio
        typical = float(np.sqrt(np.mean(np.square(errors(few, name))))) * eps / small
        largest = max(errors(many, name))
        # One rounding changes a number by at most eps / 2.
        unit = largest if largest > KINK * typical else typical / 2
        return ratio._replace(own=min(max(ratio.own, unit), ratio.ours))

    return {name: reconsidered(name, ratio) for name, ratio in ratios.items()}
