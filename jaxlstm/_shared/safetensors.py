"""A writer and a reader of safetensors files. `safetensors_header` has the format."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxlstm._shared.safetensors_header import DTYPES, SafetensorsError, TensorEntry, read_header

DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}


def safetensors_bytes(
    tensors: Mapping[str, Any], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file: the header with its metadata, then each tensor.

    C-contiguous little-endian tensors are not copied, so that memory does not grow with the file.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_CODES:
            raise TypeError(f"{name} must have a dtype of safetensors files, got {tensor.dtype}")
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


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read every tensor of a file."""
    with open(path, "rb") as file:

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        try:
            _, entries = read_header(read, os.fstat(file.fileno()).st_size)
            return {entry.name: _read_array(file, entry) for entry in entries}
        except SafetensorsError as error:
            raise ValueError(f"{path} is not a valid safetensors file: {error}") from error


def _read_array(file: BinaryIO, entry: TensorEntry) -> np.ndarray:
    nbytes = entry.stop - entry.start
    is_shape = all(type(n) is int and n >= 0 for n in entry.shape)
    if not is_shape or math.prod(entry.shape) * entry.dtype.itemsize != nbytes:
        message = f"{entry.name[:100]!r} of shape {entry.shape[:8]} does not take {nbytes} bytes"
        raise SafetensorsError("header", message)
    array = np.empty(entry.shape, entry.dtype.newbyteorder("<"))
    file.seek(entry.start)
    if file.readinto(array.reshape(-1).view(np.uint8).data) != nbytes:  # type: ignore[attr-defined]
        raise SafetensorsError("truncated", "the file ended while it was read")
    return array.astype(entry.dtype, copy=False)
