"""Whether a side computes what an LSTM is, before it is timed.

The measure is the float64 oracle of the checker, which shares no code with any side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.bench.sizes import Problem
from jaxlstm.check.reference import oracle

Truth = dict[str, np.ndarray]


class Tolerance(NamedTuple):
    """How far a side may be from the oracle."""

    outputs: float  # absolute: outputs are within -1 and 1
    gradients: float  # of the largest element of each gradient, which is a sum of many


# By :attr:`jaxlstm.bench.setting.Setting.arithmetic`. With the operands of every product rounded to 10 bits
# the most over some sizes was 3e-4 and 6e-4, with 7 bits 3e-3 and 5e-3.
TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-4),
    "tf32": Tolerance(2e-3, 4e-3),
    "bfloat16": Tolerance(2e-2, 4e-2),
}


def truth(problem: Problem, mode: str) -> Truth:
    """The oracle's outputs by the name ``outputs``, or its gradients, that of the inputs by ``inputs``."""
    found = oracle.forward(problem.params, problem.inputs, None, problem.lengths, problem.config)
    if mode == "infer":
        return {"outputs": found.outputs}
    cotangents = (2 * found.outputs, np.zeros_like(found.h_n), np.zeros_like(found.c_n))
    gradients = oracle.backward(problem.params, found, problem.lengths, problem.config, cotangents)
    return {"inputs": gradients.inputs, **gradients.params}


def named(answer: Any, mode: str) -> dict[str, Any]:
    """The arrays of a side's answer that can be compared, by the names of :func:`truth`."""
    if mode == "infer":
        return {"outputs": answer}
    inputs, weights = answer
    return {"inputs": inputs, **(weights if isinstance(weights, Mapping) else {})}


def disagreement(
    answer: Any, wanted: Truth, mode: str, arithmetic: str = "float32"
) -> tuple[float, str | None]:
    """The largest error, and what is wrong, or None if nothing is.

    The error of outputs is absolute, that of a gradient relative to its largest element.
    """
    worst, told, allowed = 0.0, None, TOLERANCES[arithmetic]
    for name, found in named(answer, mode).items():
        found, right = _on_host(found).astype(np.float64), wanted[name]
        if found.shape != right.shape:
            return np.inf, f"{name}: shape {found.shape}, wanted {right.shape}"
        scale = 1.0 if mode == "infer" else float(np.abs(right).max())
        error = float(np.abs(found - right).max()) / scale
        tolerance = allowed.outputs if mode == "infer" else allowed.gradients
        if not error <= tolerance and told is None:  # a NaN is wrong too
            what = name if mode == "infer" else f"the gradient by {name}"
            told = f"{what} differs from the float64 oracle by {error:.2g}, allowed {tolerance:g}"
        worst = max(worst, error) if not np.isnan(error) else np.nan
    return worst, told


def _on_host(array: Any) -> np.ndarray:
    """A NumPy array of an answer; a tensor of torch on a GPU must be asked to come."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)
