"""Compare the native kernel with the plain scan on random configs, values and gradients.

``python -m tools.random_configs --configs 10000`` (``make random-configs``) takes an hour on one core. A
config depends only on the seed and its number, so a run can be split into parts, and a failing config can be
rerun with ``--first NUMBER --configs 1``.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels.cpu import ffi
from testing.problems import Problem, values_and_gradients, worst_error

TOLERANCE = {"float32": 5e-6, "float64": 2e-14, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest accepted ``worst_error`` of each dtype. In half precision the scan's own error is as large."""

NUDGES = 8
"""Number of times that the inputs of a config above its tolerance are nudged."""

CONFIGS_PER_CACHE = 50
"""Number of configs after which JAX's caches are cleared."""


class Config(NamedTuple):
    """A problem, its dtype and the number of threads."""

    problem: Problem
    dtype: str
    threads: int

    def __str__(self) -> str:
        return f"{self.problem} {self.dtype}, {self.threads} threads"


def draw_config(seed: int, number: int) -> Config:
    """Draw a small config, with sizes around the sizes of vectors, register blocks and panels."""
    rng = np.random.default_rng([seed, number])
    hidden_size = int(rng.choice([1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 130]))
    projected = hidden_size > 1 and rng.random() < 0.3
    problem = Problem(
        time=int(rng.choice([1, 2, 3, 5, 9, 20, 40])),
        batch=int(rng.choice([1, 2, 3, 4, 5, 7, 13, 16, 24, 29, 32, 33, 48, 67, 100])),
        input_size=int(rng.choice([1, 3, 8, 16, 17, 40, 70, 128])),
        hidden_size=hidden_size,
        proj_size=int(rng.integers(1, hidden_size)) if projected else 0,
        bidirectional=bool(rng.random() < 0.5),
        bias=bool(rng.random() < 0.5),
        ragged=bool(rng.random() < 0.5),
    )
    return Config(problem, str(rng.choice(list(TOLERANCE))), int(rng.choice([1, 2, 3, 8])))


def errors(seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, Config, float]]:
    """Yield each number with its config and the native kernel's error."""
    try:
        for done, number in enumerate(numbers, 1):
            config = draw_config(seed, number)
            ffi.THREADS = config.threads
            yield number, config, error_of(config)
            if done % CONFIGS_PER_CACHE == 0:
                jax.clear_caches()
    finally:
        ffi.THREADS = 0


def error_of(config: Config) -> float:
    """Return the native kernel's :func:`worst_error` relative to the plain scan, NaN included."""
    problem, dtype = config.problem, jnp.dtype(config.dtype)
    with jax.enable_x64(config.dtype == "float64"):
        native, scan = (values_and_gradients(problem, dtype, backend) for backend in ("native", "scan"))
        return worst_error(native, scan)


def is_wrong(config: Config, error: float) -> bool:
    """Return True if the error is above the tolerance, or NaN, and rounding does not explain it.

    Sums that nearly cancel amplify rounding. So an error up to three times the largest change of the scan's
    results is accepted when each input moves to an adjacent number.
    """
    return not error <= TOLERANCE[config.dtype] and not error <= 3 * sensitivity_of(config)


@functools.cache
def sensitivity_of(config: Config) -> float:
    """Return the largest change of the scan's results over ``NUDGES`` nudges of the inputs."""
    problem, dtype = config.problem, jnp.dtype(config.dtype)
    with jax.enable_x64(config.dtype == "float64"):
        results = [values_and_gradients(problem, dtype, "scan", nudge) for nudge in (None, *range(NUDGES))]
    return max(worst_error(result, results[0]) for result in results[1:])


def main() -> int:
    """Print each failing config and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)  # each program runs only once
    failed, worst = 0, dict.fromkeys(TOLERANCE, 0.0)
    numbers = range(options.first, options.first + options.configs)
    for number, config, error in errors(options.seed, numbers):
        if is_wrong(config, error):
            print(f"config {number} of seed {options.seed}: {config}: {error:.2g}", flush=True)
            failed += 1
        worst[config.dtype] = max(worst[config.dtype], error)
        if (number + 1) % 500 == 0:
            print(f"... up to {number}: {failed} failed, worst {worst}", flush=True)
    print(f"{len(numbers)} random configs of seed {options.seed}, {failed} failed, worst {worst}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
