"""A larger unit of large RMS errors: rounding of torch's numbers instead of its operations.

Torch's own error is one sample. An array of few elements may have hardly any error by luck, and near a kink,
such as a ReLU at 0, one run of a right model may take the other side. A failure is therefore compared with
runs of torch in float64 in which every number was changed by rounding. They replace torch's error only in
the arrays that exceed a limit, and no array counts as better than torch because of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.check.cases.results import Results
from jaxlstm.check.criteria import rms
from jaxlstm.check.criteria.criterion import RmsRatio

Array = np.ndarray

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
    if not found or (rms.mean_ratio(found).ok and rms.worst_ratio(found).ok):
        return dict(ratios)
    eps = float(ml_dtypes.finfo(dtype).eps)
    # A change of 2**7 ulp of float64 crosses no kink, and the errors that it causes are proportional to it.
    small = float(np.finfo(np.float64).eps) * 2**7
    few, many = [perturbed(small) for _ in range(RUNS)], [perturbed(eps) for _ in range(RUNS)]
    exact = truth.arrays()

    def reconsidered(name: str, ratio: RmsRatio) -> RmsRatio:
        if not ratio.value > rms.MEAN_LIMIT:
            return ratio
        typical = float(np.sqrt(np.mean(np.square(_errors(few, name, exact[name]))))) * eps / small
        largest = max(_errors(many, name, exact[name]))
        # One rounding changes a number by at most eps / 2.
        unit = largest if largest > KINK * typical else typical / 2
        return ratio._replace(own=min(max(ratio.own, unit), ratio.ours))

    return {name: reconsidered(name, ratio) for name, ratio in ratios.items()}


def _errors(runs: Sequence[Results], name: str, truth: Array) -> list[float]:
    return [rms.rms_error(run.arrays()[name], truth) for run in runs]
