"""RMS errors to float64 over the table of cases, as a multiple of torch's own error in the same dtype.

In float64 torch is the reference, and the row holds the largest absolute difference from it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.parts import Settings
from testing.cases import FEW, FEWER, Case, Results, check, functional, pooled_error

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
KINDS = {"outputs and states": False, "gradients": True}


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each dtype over 16 cases, which have every combination of any three settings."""
    cases = FEWER[:1] if settings.tiny else FEW
    for name, dtype in DTYPES.items():
        errors = np.array([_errors(case, dtype) for case in cases])
        columns = {}
        for kind, column in zip(KINDS, errors.T, strict=True):
            columns |= {f"{kind}, median": statistics.median(column), f"{kind}, worst": max(column)}
        what = "difference from torch, absolute" if dtype is np.float64 else "error / torch's"
        yield {"case": f"{name}, {what}", "columns": {k: float(f"{v:.2g}") for k, v in columns.items()}}


def _errors(case: Case, dtype: Any) -> list[float]:
    """Return the errors of values and of gradients."""
    result: list[float] = []

    def record(actual: Results, _: object, torch_own: Results, truth: Results) -> None:
        for gradients in KINDS.values():
            if dtype is np.float64:
                names = [name for name in truth if name.startswith("d ") == gradients]
                result.append(max(float(np.abs(actual[n] - truth[n]).max()) for n in names))
            else:
                ours, theirs = (pooled_error(r, truth, gradients) for r in (actual, torch_own))
                result.append(ours / theirs)

    check(case, dtype, functional(case), compare=record)
    return result
