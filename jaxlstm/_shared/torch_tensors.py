"""Conversion between torch tensors and NumPy arrays, bfloat16 included, without importing torch."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np


def is_tensor(value: Any) -> bool:
    """Return True if ``value`` is a torch tensor."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensor_to_numpy(tensor: Any) -> np.ndarray:
    """Return the bits of a tensor as an array. A tensor on the CPU shares its memory."""
    torch: Any = sys.modules["torch"]
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:  # Tensor.numpy() rejects this dtype.
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def numpy_to_tensor(array: np.ndarray) -> Any:
    """Return a tensor with the bits and the memory of an array. torch must have been imported."""
    torch: Any = sys.modules["torch"]
    if array.dtype == ml_dtypes.bfloat16:  # torch.from_numpy() rejects this dtype.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
