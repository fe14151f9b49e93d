"""Tolerances of the suites in tests/foreign and tests/real.

float64: 1e-14. Two correct implementations differ only by the order of their sums. float32: an RMS
error against float64 of at most twice PyTorch's own error over all samples, and of at most four
times in a single sample of a few dozen numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def flat(arrays: Sequence[Any]) -> np.ndarray:
    """Concatenate the arrays, flattened, in float64."""
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def assert_same_shapes(actual: Sequence[Any], expected: Sequence[Any]) -> None:
    assert [np.shape(array) for array in actual] == [np.shape(array) for array in expected]


def assert_equal_in_float64(actual: Sequence[Any], expected: Sequence[Any]) -> None:
    assert_same_shapes(actual, expected)
    assert all(np.asarray(array).dtype == np.float64 for array in actual)
    np.testing.assert_allclose(flat(actual), flat(expected), rtol=0, atol=1e-14)


def assert_as_exact_as_torch(
    actual: Sequence[Any], torch_float32: Sequence[Any], oracle_float64: Sequence[Any], *, factor: float
) -> None:
    assert_same_shapes(actual, torch_float32)
    assert all(np.asarray(array).dtype == np.float32 for array in actual)
    oracle = flat(oracle_float64)
    ours, theirs = (rms(flat(arrays) - oracle) for arrays in (actual, torch_float32))
    assert ours <= factor * theirs, f"RMS error {ours:.2e}, torch's own error {theirs:.2e}"


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference**2)))
