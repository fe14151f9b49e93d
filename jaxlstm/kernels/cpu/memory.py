"""Aligned NumPy arrays: XLA uses them without a copy, and threads that write to parts share no cache line."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

ALIGNMENT = 64
"""Alignment in bytes that XLA requires; it is also the size of the longest vector registers."""


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros whose address is a multiple of ALIGNMENT."""
    return _aligned(np.zeros, shape, dtype)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of any contents whose address is a multiple of ALIGNMENT."""
    return _aligned(np.empty, shape, dtype)


def _aligned(make: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    nbytes = math.prod(shape) * dtype.itemsize
    block = make(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + nbytes].view(dtype).reshape(shape)
