"""How near is near enough, told once for the suites here.

float64: 1e-14, since two right implementations differ by the order of their sums alone. float32: an RMS error
to float64 of at most twice PyTorch's own over all samples, and four times in one alone, where of some dozen
numbers chance is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def flat(arrays: Sequence[Any]) -> np.ndarray:
    """Outputs and states end to end, in float64."""
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def assert_same_shapes(actual: Sequence[Any], expected: Sequence[Any]) -> None:
    assert [np.shape(array) for array in actual] == [np.shape(array) for array in expected]


def assert_equal_in_float64(actual: Sequence[Any], expected: Sequence[Any]) -> None:
    assert_same_shapes(actual, expected)
    assert all(np.asarray(array).dtype == np.float64 for array in actual)
    np.testing.assert_allclose(flat(actual), flat(expected), rtol=0, atol=1e-14)


def assert_as_exact_as_torch(
    actual: Sequence[Any],
    torch_float32: Sequence[Any],
    oracle_float64: Sequence[Any],
    *,
    factor: float,
) -> None:
    assert_same_shapes(actual, torch_float32)
    assert all(np.asarray(array).dtype == np.float32 for array in actual)
    oracle = flat(oracle_float64)
    ours, torchs = (rms(flat(arrays) - oracle) for arrays in (actual, torch_float32))
    assert ours <= factor * torchs, f"RMS error {ours:.2e}, torch's own {torchs:.2e}"


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference**2)))
