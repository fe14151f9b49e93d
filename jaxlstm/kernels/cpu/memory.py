"""Memory of NumPy's that XLA uses as it is, where it would copy what begins elsewhere than it likes."""

from __future__ import annotations

import math

import numpy as np

ALIGNMENT = 64
"""Bytes: XLA's, and that of the longest vectors."""


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that begin at a multiple of ALIGNMENT."""
    nbytes = math.prod(shape) * dtype.itemsize
    block = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + nbytes].view(dtype).reshape(shape)
