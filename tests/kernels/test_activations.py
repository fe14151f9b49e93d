"""sigmoid and tanh of the native kernel, in ulp of the truth."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from jaxlstm.kernels.cpu.library import library
from tests.kernels.problems import needs_native

pytestmark = needs_native
FLOATS = ctypes.POINTER(ctypes.c_float)
MOST_ULP = 1.5
TINY = np.finfo(np.float32).tiny


def activations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    handle = library().handle
    assert handle is not None
    sigmoid, tanh = np.empty_like(x), np.empty_like(x)
    handle.jaxlstm_activations(
        *(array.ctypes.data_as(FLOATS) for array in (x, sigmoid, tanh)), ctypes.c_long(x.size)
    )
    return sigmoid, tanh


def worst_ulp(actual: np.ndarray, exact: np.ndarray) -> float:
    """Where the truth is a normal float32; below, results may be zero, as XLA's are."""
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    normal = np.abs(exact) >= TINY
    return float((np.abs(actual - exact) / spacing)[normal].max(initial=0.0))


def check(bits: np.ndarray) -> None:
    x = bits.view(np.float32)
    x = x[np.isfinite(x)]
    exact = x.astype(np.float64)
    sigmoid, tanh = activations(x)
    with np.errstate(over="ignore"):
        assert worst_ulp(sigmoid, 1 / (1 + np.exp(-exact))) <= MOST_ULP
    assert worst_ulp(tanh, np.tanh(exact)) <= MOST_ULP
    assert (np.abs(tanh) <= 1).all()
    assert ((sigmoid >= 0) & (sigmoid <= 1)).all()


def test_a_million_of_all_float32() -> None:
    check(np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32))
    check(np.random.default_rng(1).uniform(-20, 20, 2**20).astype(np.float32).view(np.uint32))


def test_at_the_edges() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 100, -100], np.float32)
    sigmoid, tanh = activations(x)
    np.testing.assert_array_equal(tanh[:5], np.array([0, -0.0, 1, -1, np.nan], np.float32))
    assert np.signbit(tanh[1])
    np.testing.assert_array_equal(sigmoid[[0, 1, 2]], [0.5, 0.5, 1])
    assert 0 <= sigmoid[3] < 1e-38
    assert np.isnan(sigmoid[4])


@pytest.mark.slow
@pytest.mark.parametrize("block", range(64))
def test_every_float32(block: int) -> None:
    size = 2**32 // 64
    for start in range(block * size, (block + 1) * size, 2**22):
        check(np.arange(start, start + 2**22, dtype=np.uint32))
