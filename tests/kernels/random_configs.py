"""Random configs by the native kernel and by the plain scan, values and gradients.

``python -m tests.kernels.random_configs --configs 10000`` (``make random-configs``) takes an hour of a core.
Each config depends on the seed and its own number only, so that the run can be cut in parts, and a config
that is wrong be run alone: ``--first NUMBER --configs 1``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels.cpu import ffi
from tests.kernels.problems import Problem, values_and_gradients, worst_error

MOST = {"float32": 5e-6, "float64": 2e-14}  # of the largest number of each array, and at least of 1
A_WHILE = 50  # configs, until compiled programs are forgotten
# Most of the time goes into compiling what runs once.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


class Config(NamedTuple):
    """A problem, and in what and by how many threads it is computed."""

    problem: Problem
    dtype: str
    threads: int

    def __str__(self) -> str:
        return f"{self.problem} {self.dtype}, {self.threads} threads"


def draw_config(seed: int, number: int) -> Config:
    """Small enough to compile and run in a moment, on both sides of vectors, tiles, panels and blocks."""
    rng = np.random.default_rng([seed, number])
    hidden_size = int(rng.choice([1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 130]))
    projected = hidden_size > 1 and rng.random() < 0.3
    problem = Problem(
        time=int(rng.choice([1, 2, 3, 5, 9, 20, 40])),
        batch=int(rng.choice([1, 2, 3, 4, 5, 7, 13, 16, 24, 29, 32, 33, 48])),
        input_size=int(rng.choice([1, 3, 8, 16, 17, 40, 70, 128])),
        hidden_size=hidden_size,
        proj_size=int(rng.integers(1, hidden_size)) if projected else 0,
        bidirectional=bool(rng.random() < 0.5),
        bias=bool(rng.random() < 0.5),
        ragged=bool(rng.random() < 0.5),
    )
    return Config(problem, str(rng.choice(list(MOST))), int(rng.choice([1, 2, 3, 8])))


def errors(seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, Config, float]]:
    """Of the native kernel, as :func:`worst_error` has it, for each number."""
    try:
        for done, number in enumerate(numbers, 1):
            config = draw_config(seed, number)
            ffi.THREADS = config.threads
            yield number, config, error_of(config)
            if done % A_WHILE == 0:
                jax.clear_caches()
    finally:
        ffi.THREADS = 0


def error_of(config: Config) -> float:
    """NaN is an error as well: ``not error <= MOST[dtype]`` finds it."""
    problem, dtype = config.problem, jnp.dtype(config.dtype)
    with jax.enable_x64(config.dtype == "float64"):
        native, scan = (
            values_and_gradients(problem, dtype, backend, QUICK) for backend in ("native", "scan")
        )
        return worst_error(native, scan)


def main() -> int:
    """Print what is wrong, and how many were tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong, worst = 0, dict.fromkeys(MOST, 0.0)
    numbers = range(options.first, options.first + options.configs)
    for number, config, error in errors(options.seed, numbers):
        if not error <= MOST[config.dtype]:
            print(f"config {number} of seed {options.seed}: {config}: {error:.2g}", flush=True)
            wrong += 1
        worst[config.dtype] = max(worst[config.dtype], error)
        if (number + 1) % 500 == 0:
            print(f"... up to {number}: {wrong} wrong, worst {worst}", flush=True)
    print(f"{len(numbers)} random configs of seed {options.seed}, {wrong} wrong, worst {worst}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
