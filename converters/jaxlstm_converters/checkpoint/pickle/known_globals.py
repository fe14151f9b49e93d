"""The globals that mean something here: exact (module, name) pairs, 32 of them at most.

A function is one of ours, written for that name; it is not the function that the name means to
Python. A `StorageType` or a dtype is a noun. Everything else that a pickle names is inert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..io.storage import DTYPES
from . import numpy_calls, torch_calls
from .machine import Vocabulary
from .values import NumpyArray, NumpyDtype, StorageType

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
# The dtypes that have no storage class: their tensors are written by `_rebuild_tensor_v3`.
_STORAGELESS = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")

KNOWN_GLOBALS: dict[tuple[str, str], Callable[..., Any] | StorageType | np.dtype[Any]] = {
    ("collections", "OrderedDict"): torch_calls.ordered_dict,
    ("torch._utils", "_rebuild_tensor"): torch_calls.tensor_v1,  # until torch 0.3
    ("torch._utils", "_rebuild_tensor_v2"): torch_calls.tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): torch_calls.tensor_v3,
    ("torch._utils", "_rebuild_parameter"): torch_calls.parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): torch_calls.parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): torch_calls.from_type,
    **{("torch", name): StorageType(DTYPES[dtype]) for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): StorageType(None),
    ("torch.storage", "_load_from_bytes"): torch_calls.load_from_bytes,
    **{("torch", name): DTYPES[name] for name in _STORAGELESS},
    ("numpy", "dtype"): numpy_calls.dtype,
    ("numpy.core.multiarray", "_reconstruct"): numpy_calls.reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): numpy_calls.reconstruct,
    ("numpy.core.numeric", "_frombuffer"): numpy_calls.from_buffer,  # pickle protocol 5
    ("numpy._core.numeric", "_frombuffer"): numpy_calls.from_buffer,
    ("_codecs", "encode"): numpy_calls.encode,  # bytes, in pickle protocols 0 to 2
}

VOCABULARY = Vocabulary(
    KNOWN_GLOBALS,
    {NumpyArray: numpy_calls.set_array, NumpyDtype: numpy_calls.set_dtype},
)
