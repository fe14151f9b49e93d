"""The TPU kernel and cuDNN on a device, over the table of cases, against torch and the plain scan."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxlstm import lstm
from testing.agreement import check, functional
from testing.cases import CASES, Case
from testing.each_backend import name_of, on_each_backend
from testing.problems import Problem, draw, values_and_gradients, worst_error

ROWS = list(itertools.product(CASES, (np.float32, ml_dtypes.bfloat16)))
WITHOUT_PROJECTION = [case for case in CASES if case.config.proj_size == 0]


@on_each_backend("row", ROWS, backends=["tpu"], ids=name_of)
def test_pallas_against_torch(backend: str, row: tuple[Case, Any]) -> None:
    case, dtype = row
    check(case, dtype, functional(case, "pallas"))


@on_each_backend("case", WITHOUT_PROJECTION, backends=["gpu"])
def test_cudnn_against_torch(backend: str, case: Case) -> None:
    check(case, np.float32, functional(case, "cudnn"))


@on_each_backend("hidden_size", [16, 64, 128, 200, 256], backends=["tpu"])
def test_pallas_against_the_scan(backend: str, hidden_size: int) -> None:
    problem = Problem(20, 40, 8, hidden_size, ragged=True, bidirectional=True)
    actual = values_and_gradients(problem, jnp.float32, "pallas")
    assert worst_error(actual, values_and_gradients(problem, jnp.float32, "scan")) < 5e-6


@on_each_backend(backends=["gpu"])
def test_cudnn_in_tf32(backend: str) -> None:
    config, params, inputs, state, _ = draw(Problem(20, 40, 64, 64), jnp.float32)
    exact, coarse = (
        lstm(params, inputs, state, config=config, precision=precision, backend="cudnn")
        for precision in ("highest", "high")
    )
    assert 1e-6 < worst_error(coarse, exact) < 1e-2
