"""RMS error to float64 over the table of test cases, as a multiple of torch's own error in the same dtype.

``python -m benchmarks.accuracy [dtype[/N] ...]`` prints a markdown table; ``/N`` takes every Nth case. In
float64 torch itself is the reference, and the table holds the largest absolute difference from it. It takes
several minutes, because every case is compiled.
"""

from __future__ import annotations

import statistics
import sys

import ml_dtypes
import numpy as np

from tests.support import agreement
from tests.support.cases import CASES, Results, pooled_error

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}


def measure(dtype: type, every: int) -> list[tuple[float, float]]:
    """Return the errors of values and of gradients for each case."""
    result: list[tuple[float, float]] = []

    def record(actual: Results, _: object, torch_own: Results, truth: Results) -> None:
        errors = []
        for gradients in (False, True):
            if dtype is np.float64:
                names = [name for name in truth if name.startswith("d ") == gradients]
                errors.append(max(float(np.abs(actual[n] - truth[n]).max()) for n in names))
            else:
                ours, theirs = (pooled_error(r, truth, gradients) for r in (actual, torch_own))
                errors.append(ours / theirs)
        result.append((errors[0], errors[1]))

    agreement.assert_matches = record
    for case in CASES[::every]:
        agreement.check(case, dtype, agreement.functional(case))
        agreement.reference.cache_clear()
    return result


def main(names: list[str]) -> None:
    """Print a row for each dtype, such as "float32/2"."""
    print("| dtype | outputs and states | gradients |\n|---|---|---|")
    for request in names:
        name, _, every = request.partition("/")
        cells = []
        for column in zip(*measure(DTYPES[name], int(every or 1)), strict=True):
            if name == "float64":
                cells.append(f"at most {max(column):.1e} from torch's, absolute")
            else:
                cells.append(f"median {statistics.median(column):.2f}, worst {max(column):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(DTYPES))
