"""The RMS error in the working dtype, relative to the error of correct implementations.

Correct implementations are torch, two evaluations of the equations in NumPy, and the float64 truth
rounded to the working dtype. The largest of their errors is the unit, so that one lucky implementation
does not fail the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check.criteria.measurement import Measurement
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.results import Results, oracle_results
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray

MEAN_LIMIT, MEAN_LIMIT_FEW, FEW = 2.0, 4.0, 1000
"""Limit of the geometric mean of the ratios; the second applies below FEW elements."""

ARRAY_LIMIT = 16.0
"""Limit of a single array of one case, in which few roundings decide. Correct ports reach 6."""

CHAOTIC = 1e4
"""Amplification of one ulp above which RMS errors are a matter of chance and are not compared."""


class RmsRatio(NamedTuple):
    """The RMS error of one array of one case, of the port and of correct implementations.

    ``in_mean`` is False for a case with large cell states, where correct implementations differ widely.
    """

    where: str
    size: int
    ours: float
    torch: float | None
    own: float
    in_mean: bool = True

    @property
    def value(self) -> float:
        """The port's error divided by the error of correct implementations."""
        return self.ours / self.own if self.own else (np.inf if self.ours else 1.0)


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


def correct_results(
    params: Mapping[str, Any], config: LSTMConfig, case: Case, dtype: Any, *, gradients: bool
) -> list[Results]:
    """Evaluate the equations with NumPy in the working dtype, in two ways.

    The first follows the text of the equations. The second computes sigmoid through tanh, which has an
    absolute error where exp has a relative error, and adds up products in the reverse order. Half precision
    is computed in float32 and rounded, as in torch and jaxlstm.
    """
    compute = np.promote_types(dtype, np.float32)
    half = compute.type(0.5)
    reordered = oracle.Equations(
        sigmoid=lambda z: half + half * np.tanh(half * z),
        product=lambda x, w: np.ascontiguousarray(x[:, ::-1]) @ w[:, ::-1].T,
    )
    return [
        oracle_results(params, config, case, dtype=compute, gradients=gradients, equations=equations).astype(
            dtype
        )
        for equations in (oracle.CORRECT, reordered)
    ]


def _geometric_mean(values: Any) -> float:
    return float(np.exp(np.mean(np.log(values))))


def rms_error(value: Array, truth: Array) -> float:
    """Return the RMS error of an array where the truth is finite."""
    usable = np.isfinite(truth)
    if not usable.any():
        return 0.0
    error = np.asarray(value, np.float64)[usable] - truth[usable]
    return float(np.sqrt(np.mean(error**2)))
