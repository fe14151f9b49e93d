"""Comparison of an implementation with the checker's float64 oracle, before it is timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.problems import Problem
from jaxlstm.check.reference.derivative import backward
from jaxlstm.check.reference.oracle import OracleCall


class Tolerance(NamedTuple):
    """The largest error that passes."""

    outputs: float  # absolute; outputs lie between -1 and 1
    gradients: float  # relative to the largest element of each gradient


# Keyed by Settings.arithmetic. Rounding the operands of every product to 10
# bits gave errors up to 3e-4 and 6e-4 over several sizes, to 7 bits up to 3e-3 and 5e-3.
TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-4),
    "tf32": Tolerance(2e-3, 4e-3),
    "bfloat16": Tolerance(2e-2, 4e-2),
}


def expected_arrays(problem: Problem, mode: str) -> dict[str, np.ndarray]:
    """Return the oracle's ``outputs``, or its gradients under ``inputs`` and the parameters' names."""
    call = OracleCall.of(problem.params, problem.inputs, None, problem.lengths, problem.config)
    forward = call.run()
    if mode == "infer":
        return {"outputs": forward.outputs}
    cotangents = (2 * forward.outputs, np.zeros_like(forward.h_n), np.zeros_like(forward.c_n))
    gradients = backward(call, forward, cotangents)
    return {name: gradient for name, gradient in gradients.items() if name not in ("h_0", "c_0")}


def compare(
    result: Any, expected: dict[str, np.ndarray], mode: str, arithmetic: str = "float32"
) -> tuple[float, str | None]:
    """Return the largest error and a description of the first array out of tolerance, or None.

    The error of outputs is absolute; the error of a gradient is relative to its largest element.
    """
    worst, fault = 0.0, None
    for name, array in _by_name(result, mode).items():
        actual, reference = _on_host(array).astype(np.float64), expected[name]
        if actual.shape != reference.shape:
            return np.inf, f"{name}: shape {actual.shape}, expected {reference.shape}"
        scale = 1.0 if mode == "infer" else float(np.abs(reference).max())
        error = float(np.abs(actual - reference).max()) / scale
        tolerance = getattr(TOLERANCES[arithmetic], "outputs" if mode == "infer" else "gradients")
        if not error <= tolerance and fault is None:  # NaN fails too
            label = name if mode == "infer" else f"the gradient of {name}"
            fault = f"{label} differs from the float64 oracle by {error:.2g} (allowed: {tolerance:g})"
        worst = np.nan if np.isnan(error) else max(worst, error)
    return worst, fault


def _by_name(result: Any, mode: str) -> dict[str, Any]:
    """The arrays of a result under the names of `expected_arrays`; a library's own tree is left out."""
    if mode == "infer":
        return {"outputs": result}
    inputs, weights = result
    return {"inputs": inputs, **(weights if isinstance(weights, Mapping) else {})}


def _on_host(array: Any) -> np.ndarray:
    return np.asarray(array.float().cpu() if hasattr(array, "cpu") else array)  # NumPy has no bfloat16
