"""Arrays of a state dict as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlstm._shared.torch_tensors import tensor_to_numpy


def as_numpy(tensor: Any) -> np.ndarray:
    """Return a torch tensor, NumPy array or checkpoint tensor as a NumPy array in native byte order."""
    if hasattr(tensor, "detach"):
        return tensor_to_numpy(tensor)
    array = np.asarray(tensor)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
