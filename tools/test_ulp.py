"""The native kernel's sigmoid and tanh."""

from __future__ import annotations

import numpy as np
import pytest

from testing.problems import needs_native
from tools.ulp import activations, errors_at

pytestmark = needs_native
MAX_ULP = 1.5


def check(bits: np.ndarray) -> None:
    sigmoid, tanh = errors_at(bits)
    assert sigmoid.ulp <= MAX_ULP
    assert tanh.ulp <= MAX_ULP


def test_random_floats() -> None:
    check(np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32))
    check(np.random.default_rng(1).uniform(-20, 20, 2**20).astype(np.float32).view(np.uint32))


def test_special_values() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 100, -100], np.float32)
    sigmoid, tanh = activations(x)
    np.testing.assert_array_equal(tanh[:5], np.array([0, -0.0, 1, -1, np.nan], np.float32))
    assert np.signbit(tanh[1])
    np.testing.assert_array_equal(sigmoid[[0, 1, 2]], [0.5, 0.5, 1])
    assert 0 <= sigmoid[3] < 1e-38
    assert np.isnan(sigmoid[4])


def relative_error(actual: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(actual / exact - 1).max())


def test_bfloat16() -> None:
    """The errors are far below 2^-9, also of the derivatives' factors 1 - sigmoid and 1 - abs(tanh)."""
    x = np.concatenate(
        [
            np.random.default_rng(0).uniform(-9, 9, 2**20),
            np.random.default_rng(1).uniform(-1e-3, 1e-3, 2**16),
            [-60.0, 60.0, 2.0**-100],
        ]
    ).astype(np.float32)
    sigmoid, tanh = activations(x, "bfloat16")
    wide = x.astype(np.float64)
    exact_sigmoid, exact_tanh = 1 / (1 + np.exp(-wide)), np.tanh(wide)
    assert relative_error(sigmoid, exact_sigmoid) < 2.0**-15
    assert relative_error(tanh, exact_tanh) < 2.0**-15
    small = np.abs(x) < 3
    assert relative_error(1 - sigmoid[small], 1 - exact_sigmoid[small]) < 2.0**-14
    assert relative_error(1 - np.abs(tanh[small]), 1 - np.abs(exact_tanh[small])) < 2.0**-13
    assert np.abs(tanh).max() <= 1
    assert sigmoid.max() <= 1


def test_special_values_in_bfloat16() -> None:
    x = np.array([0.0, np.inf, -np.inf, np.nan, 3e38, -3e38], np.float32)
    sigmoid, tanh = activations(x, "bfloat16")
    np.testing.assert_array_equal(sigmoid[[0, 1, 3, 4]], np.array([0.5, 1, np.nan, 1], np.float32))
    assert ((sigmoid[[2, 5]] >= 0) & (sigmoid[[2, 5]] < 1e-37)).all()
    np.testing.assert_allclose(tanh, np.array([0, 1, -1, np.nan, 1, -1]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(64))
def test_every_float(block: int) -> None:
    size = 2**32 // 64
    for start in range(block * size, (block + 1) * size, 2**22):
        check(np.arange(start, start + 2**22, dtype=np.uint32))
