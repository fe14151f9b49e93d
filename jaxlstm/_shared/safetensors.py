"""The bytes of a safetensors file: https://github.com/huggingface/safetensors#format.

Eight bytes of header length, a JSON header padded with spaces to a multiple of eight, then the tensors
without gap or overlap. Writing it ourselves lets it be written atomically, in bfloat16 too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import ml_dtypes
import numpy as np

DTYPE_CODES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}


class Tensors(Protocol):
    """What is walked twice: a dict, or tensors that are read as they come. An array, or what gives one."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """Each name and tensor, of which ``dtype`` and ``shape`` alone are asked."""
        ...

    def values(self) -> Iterable[Any]:
        """The same tensors in the same order, to be read."""
        ...


def safetensors_bytes(
    tensors: Tensors, metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """One file's bytes, a piece at a time: the header with its strings, then each tensor.

    A tensor that is C-contiguous and little-endian is not copied: memory does not grow with the file.

    Raises:
      TypeError: a tensor that is no float array, told before the first piece is handed over.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_CODES:
            raise TypeError(f"{name} must be a float array, got {tensor.dtype}")
        nbytes = math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": DTYPE_CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        plain = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
        yield plain.reshape(-1).view(np.uint8).data
