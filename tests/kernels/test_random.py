"""The native kernel against the plain scan on random problems, values and gradients.

After a change to the kernel, run ``CONFIGS=1000 pytest tests/kernels/test_random.py``. A problem depends only
on the seed and its number, so FIRST_CONFIG repeats one. Sums that nearly cancel amplify rounding, which may
explain an error of a few times the tolerance.
"""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.kernels.cpu import ffi
from testing.problems import Problem, needs_native, values_and_gradients, worst_error

pytestmark = [needs_native, pytest.mark.usefixtures("fast_compilation")]
CONFIGS, FIRST, SEED = (
    int(os.environ.get(name, default))
    for name, default in (("CONFIGS", "8"), ("FIRST_CONFIG", "0"), ("CONFIGS_SEED", "1"))
)
TOLERANCE = {"float32": 5e-6, "float64": 2e-14, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest accepted ``worst_error`` of each dtype. In half precision the scan's own error is as large."""


def draw_problem(number: int) -> tuple[Problem, str, int]:
    """Draw a problem with sizes near vectors, blocks and panels, a dtype and the number of threads."""
    rng = np.random.default_rng([SEED, number])
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
    return problem, str(rng.choice(list(TOLERANCE))), int(rng.choice([1, 2, 3, 8]))


@pytest.mark.parametrize("number", range(FIRST, FIRST + CONFIGS))
def test_native_equals_scan(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, dtype, threads = draw_problem(number)
    monkeypatch.setattr(ffi, "THREADS", threads)
    with jax.enable_x64(dtype == "float64"):
        native, scan = (values_and_gradients(problem, jnp.dtype(dtype), b) for b in ("native", "scan"))
    error = worst_error(native, scan)
    assert error <= TOLERANCE[dtype], (problem, dtype, threads, error)
    if number % 50 == 49:
        jax.clear_caches()
