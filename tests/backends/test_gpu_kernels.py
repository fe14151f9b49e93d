"""The kernels for GPUs on a GPU: Pallas and cuDNN over the table of cases, against torch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxlstm import lstm
from tests.cases import CASES, Case
from tests.kernels.problems import Problem, draw, values_and_gradients, worst_error
from tests.test_cases import check, functional

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        jax.default_backend() != "gpu",
        reason=f"no GPU here: JAX's default device is a {jax.default_backend()}",
    ),
]
ROWS = [(case, "pallas", dtype) for case in CASES for dtype in (np.float32, ml_dtypes.bfloat16)]
ROWS += [(case, "cudnn", np.float32) for case in CASES if case.config.proj_size == 0]


@pytest.mark.parametrize(
    ("case", "how", "dtype"), ROWS, ids=[f"{c}-{how}-{d.__name__}" for c, how, d in ROWS]
)
def test_against_torch(case: Case, how: str, dtype: Any) -> None:
    check(case, dtype, functional(case, how))


@pytest.mark.parametrize("hidden_size", [16, 64, 128, 200, 256])
def test_pallas_as_the_scan(hidden_size: int) -> None:
    problem = Problem(20, 40, 8, hidden_size, ragged=True, bidirectional=True)
    found = values_and_gradients(problem, jnp.float32, "pallas")
    assert worst_error(found, values_and_gradients(problem, jnp.float32, "scan")) < 5e-6


@pytest.mark.parametrize("how", ["pallas", "cudnn"])
def test_tf32_is_coarser_and_no_coarser_than_that(how: str) -> None:
    config, params, inputs, state, _ = draw(Problem(20, 40, 64, 64), jnp.float32)
    exact, coarse = (
        lstm(params, inputs, state, config=config, precision=precision, backend=how)
        for precision in ("highest", "high")
    )
    assert 1e-6 < worst_error(coarse, exact) < 1e-2
