"""The native kernel's sigmoid and tanh."""

from __future__ import annotations

import ctypes

import numpy as np

from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library
from testing.problems import needs_native

pytestmark = needs_native
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40, -1e-40], np.float32)


def activations(x: np.ndarray, dtype: str) -> list[np.ndarray]:
    """Return the kernel's sigmoid and tanh of a float32 array, as in a call of a dtype."""
    handle, results = library().handle, [np.empty_like(x), np.empty_like(x)]
    assert handle is not None
    pointers = (array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for array in (x, *results))
    handle.jaxlstm_activations(DTYPE_NUMBERS[dtype], *pointers, ctypes.c_long(x.size))
    return results


def exact(x: np.ndarray) -> list[np.ndarray]:
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return [1 / (1 + np.exp(-wide)), np.tanh(wide)]


def test_float32_is_accurate_to_one_and_a_half_ulp() -> None:
    """Results that are subnormal may be flushed to zero, as in XLA."""
    bits = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32).view(np.float32)
    x = np.concatenate([bits, np.random.default_rng(1).uniform(-20, 20, 2**20).astype(np.float32)])
    x = x[~np.isnan(x)]
    for actual, expected in zip(activations(x, "float32"), exact(x), strict=True):
        spacing = np.spacing(np.abs(expected).astype(np.float32))
        normal = np.abs(expected) >= np.finfo(np.float32).tiny
        assert (np.abs(actual - expected) / spacing)[normal].max() <= 1.5
        assert np.abs(actual).max() <= 1


def test_bfloat16_is_far_more_accurate_than_its_products() -> None:
    """The errors are far below 2^-9, also of the derivatives' factors 1 - sigmoid and 1 - abs(tanh)."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-9, 9, 2**20), rng.uniform(-1e-3, 1e-3, 2**16), [-60.0, 60.0, 2.0**-100]])
    x = x.astype(np.float32)
    small = np.abs(x) < 3
    for actual, expected in zip(activations(x, "bfloat16"), exact(x), strict=True):
        assert np.abs(actual / expected - 1).max() < 2.0**-15
        ours, theirs = 1 - np.abs(actual[small]), 1 - np.abs(expected[small])
        assert np.abs(ours / theirs - 1).max() < 2.0**-13
        assert np.abs(actual).max() <= 1


def test_special_values() -> None:
    for dtype in ("float32", "bfloat16"):
        for actual, expected in zip(activations(SPECIAL, dtype), exact(SPECIAL), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-37)
    _, tanh = activations(SPECIAL, "float32")
    assert np.signbit(tanh[1])
