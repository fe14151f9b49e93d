"""The RMS error in the working dtype, relative to the error of correct implementations.

Correct implementations are torch, for an LSTM two evaluations of the equations in NumPy, for a model torch
without oneDNN, and the float64 truth rounded to the working dtype. The largest of their errors is the unit,
so that one lucky implementation does not fail the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
