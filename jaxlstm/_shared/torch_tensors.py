"""Convert between torch tensors and NumPy arrays, bit for bit, without importing torch.

NumPy lacks bfloat16, so ``Tensor.numpy`` and ``torch.from_numpy`` reject that dtype. Both
functions pass it through an int16 view and use the bfloat16 of ml_dtypes.
"""

import sys
from typing import Any

import ml_dtypes
import numpy as np


def tensor_to_numpy(tensor: Any) -> np.ndarray:
    """Return a torch tensor as a C-contiguous NumPy array; a contiguous CPU tensor is not copied."""
    torch = sys.modules["torch"]  # loaded, because the caller holds one of its tensors
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy(force=True)  # A gradient that is zero everywhere may have no memory in torch.


def as_numpy(tensor: Any) -> np.ndarray:
    """Return a torch tensor, NumPy array or checkpoint tensor as a NumPy array in native byte order."""
    if hasattr(tensor, "detach"):
        return tensor_to_numpy(tensor)
    array = np.asarray(tensor)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def numpy_to_tensor(array: np.ndarray) -> Any:
    """Return a C-contiguous, writable NumPy array as a torch CPU tensor that shares its memory."""
    torch = sys.modules.get("torch")
    if torch is None:
        raise RuntimeError("import torch before converting an array to a tensor")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def kind_of(value: Any) -> str:
    """Return the type of a refused argument for a message; a torch tensor with the way to convert it."""
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return "a torch tensor; convert it with .detach().cpu().numpy()"
    name = type(value).__name__
    return {"ArrayImpl": "a JAX array", "DynamicJaxprTracer": "a traced array"}.get(name, name)


def with_attributes_of(module: Any, copied: Any) -> Any:
    """Return a copy of a torch module, whose tensors get the Python attributes that torch did not copy."""
    for kind in ("named_parameters", "named_buffers"):
        # The copy of an exported module has other names, too.
        originals = dict(getattr(module, kind)(remove_duplicate=False))
        for path, new in getattr(copied, kind)(remove_duplicate=False):
            attributes = vars(originals[path]) if path in originals else {}
            vars(new).update({name: value for name, value in attributes.items() if name not in vars(new)})
    return copied
