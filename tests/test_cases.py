"""The table of cases against torch: ``lstm`` and the Flax modules, values and gradients, jitted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from testing.cases import (
    CASES,
    FEW,
    FEWER,
    HALF,
    Case,
    Forward,
    check,
    functional,
    linen_module,
    nnx_module,
    settings,
)


def on(cases: list[Case]) -> pytest.MarkDecorator:
    """Run a test on these cases, and on the rest of the table with the slow tests."""
    rows = [case if case in cases else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
    return pytest.mark.parametrize("case", rows, ids=str)


@on(FEW)
def test_float64(case: Case) -> None:
    check(case, np.float64, functional(case))


@on(FEWER)
def test_float64_on_the_scan(case: Case) -> None:
    check(case, np.float64, functional(case, "scan"))


@on(FEW)
def test_float32(case: Case) -> None:
    check(case, np.float32, functional(case))


@on([])
def test_float32_on_the_scan(case: Case) -> None:
    check(case, np.float32, functional(case, "scan"))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
@on(FEWER)
def test_half_precision(case: Case, dtype: Any) -> None:
    check(case, dtype, functional(case))


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", [nnx_module, linen_module], ids=["nnx", "linen"])
@on(FEWER)
def test_modules(case: Case, module: Callable[[Case], Forward], dtype: Any) -> None:
    check(case, dtype, module(case))


@pytest.mark.parametrize(("cases", "strength"), [(HALF, 6), (FEW, 3), (FEWER, 2)])
def test_subtables_cover_combinations(cases: list[Case], strength: int) -> None:
    for columns in itertools.combinations(range(7), strength):
        combinations = {tuple(settings(case)[k] for k in columns) for case in cases}
        assert len(combinations) == 2**strength
