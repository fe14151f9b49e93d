"""Aligned NumPy arrays: XLA uses them without a copy, and threads that write to parts share no cache line."""

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Alignment in bytes that XLA requires; it is also the size of the longest vector registers."""


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros whose address is a multiple of ALIGNMENT."""
    return aligned(np.zeros, shape, dtype)[0]


def aligned(
    make: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> tuple[np.ndarray, int]:
    """Return an array made by ``np.zeros`` or ``np.empty``, and its address, a multiple of ALIGNMENT."""
    nbytes = math.prod(shape) * dtype.itemsize
    block: Any = make(nbytes + ALIGNMENT, np.uint8)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))  # faster than block.ctypes.data
    start = -address % ALIGNMENT
    return block[start : start + nbytes].view(dtype).reshape(shape), address + start
