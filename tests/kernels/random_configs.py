"""Random configs by the native kernel and by the plain scan, values and gradients.

``python -m tests.kernels.random_configs [configs] [seed]``: 10,000 take half a day: each is compiled twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels.cpu import recurrence
from tests.kernels.problems import Problem, values_and_gradients, worst_error

MOST = {"float32": 5e-6, "float64": 2e-14}  # of the largest number of each array, and at least of 1
A_WHILE = 50  # configs, until compiled programs are forgotten


def draw_problem(rng: np.random.Generator) -> Problem:
    """Small enough to compile and run in a moment, on both sides of vectors, tiles, panels and blocks."""
    hidden_size = int(rng.choice([1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 130]))
    return Problem(
        time=int(rng.choice([1, 2, 3, 5, 9, 20, 40])),
        batch=int(rng.choice([1, 2, 3, 4, 5, 7, 13, 16, 24, 29, 32, 33, 48])),
        input_size=int(rng.choice([1, 3, 8, 16, 17, 40, 70, 128])),
        hidden_size=hidden_size,
        proj_size=int(rng.integers(1, hidden_size))
        if hidden_size > 1 and rng.random() < 0.3
        else 0,
        bidirectional=bool(rng.random() < 0.5),
        bias=bool(rng.random() < 0.5),
        ragged=bool(rng.random() < 0.5),
    )


def wrong(count: int, seed: int) -> Iterator[str]:
    """What the first ``count`` configs of a seed have wrong."""
    rng = np.random.default_rng(seed)
    try:
        for number in range(count):
            problem, dtype = draw_problem(rng), str(rng.choice(list(MOST)))
            recurrence.THREADS = int(rng.choice([1, 2, 3, 8]))
            error = error_of(problem, dtype)
            if not error <= MOST[dtype]:
                case = f"{problem} {dtype}, {recurrence.THREADS} threads"
                yield f"config {number} of seed {seed}: {case}: {error:.2g}"
            if number % A_WHILE == A_WHILE - 1:
                jax.clear_caches()
    finally:
        recurrence.THREADS = 0


def error_of(problem: Problem, dtype: str) -> float:
    """Of the native kernel, as :func:`worst_error` has it."""
    with jax.enable_x64(dtype == "float64"):
        native = values_and_gradients(problem, jnp.dtype(dtype), "native")
        return worst_error(native, values_and_gradients(problem, jnp.dtype(dtype), "scan"))


def main() -> int:
    """Print what is wrong, and how many were tried."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    found = 0
    for complaint in wrong(count, seed):
        print(complaint, flush=True)
        found += 1
    print(f"{count} random configs of seed {seed}, {found} wrong")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
