"""Aligned NumPy arrays, which XLA uses without a copy."""

from __future__ import annotations

import math

import numpy as np

ALIGNMENT = 64
"""Alignment in bytes that XLA requires; it is also the size of the longest vector registers."""


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros whose address is a multiple of ALIGNMENT."""
    nbytes = math.prod(shape) * dtype.itemsize
    block = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + nbytes].view(dtype).reshape(shape)
