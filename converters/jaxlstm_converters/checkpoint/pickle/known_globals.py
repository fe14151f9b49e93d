"""The globals that have a meaning: at most 32 exact (module, name) pairs.

Each maps to a storage type, a dtype, or a function of this package, never to the function that the
name means in Python. Every other global in a pickle is inert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..io.dtypes import DTYPES
from . import numpy_calls, torch_calls
from .machine import Vocabulary
from .values import NumpyArray, NumpyDtype, StorageType

_STORAGE_CLASSES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
# These dtypes have no storage class; torch writes their tensors with `_rebuild_tensor_v3`.
_DTYPES_WITHOUT_STORAGE_CLASS = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")

KNOWN_GLOBALS: dict[tuple[str, str], Callable[..., Any] | StorageType | np.dtype[Any]] = {
    ("collections", "OrderedDict"): torch_calls.ordered_dict,
    # Up to torch 0.3.
    ("torch._utils", "_rebuild_tensor"): torch_calls.tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): torch_calls.tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): torch_calls.tensor_v3,
    ("torch._utils", "_rebuild_parameter"): torch_calls.parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): torch_calls.parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): torch_calls.from_type,
    **{
        ("torch", name): StorageType(DTYPES[dtype], DTYPES[dtype].itemsize)
        for name, dtype in _STORAGE_CLASSES.items()
    },
    ("torch.storage", "UntypedStorage"): StorageType(None),
    ("torch.storage", "_load_from_bytes"): torch_calls.load_from_bytes,
    **{("torch", name): DTYPES[name] for name in _DTYPES_WITHOUT_STORAGE_CLASS},
    ("numpy", "dtype"): numpy_calls.dtype,
    ("numpy.core.multiarray", "_reconstruct"): numpy_calls.reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): numpy_calls.reconstruct,
    # In pickle protocol 5.
    ("numpy.core.numeric", "_frombuffer"): numpy_calls.from_buffer,
    ("numpy._core.numeric", "_frombuffer"): numpy_calls.from_buffer,
    # In pickle protocols 0 to 2, for bytes.
    ("_codecs", "encode"): numpy_calls.encode,
}

VOCABULARY = Vocabulary(KNOWN_GLOBALS, {NumpyArray: numpy_calls.set_array, NumpyDtype: numpy_calls.set_dtype})
