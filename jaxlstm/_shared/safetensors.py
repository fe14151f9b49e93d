"""A writer and a strict reader of safetensors files: https://github.com/huggingface/safetensors#format.

A file holds eight bytes of header length, a JSON header padded with spaces to a multiple of eight bytes,
and the tensors without gap or overlap.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ml_dtypes
import numpy as np

DTYPE_CODES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}
HEADER_LIMIT = 100 * 10**6
"""The largest header that the format allows, in bytes."""


class Tensors(Protocol):
    """A mapping of arrays or lazy tensors, iterated twice by :func:`safetensors_bytes`."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return each name and tensor; only ``dtype`` and ``shape`` are accessed."""
        ...

    def values(self) -> Iterable[Any]:
        """Return the same tensors in the same order; each is read."""
        ...


def safetensors_bytes(tensors: Tensors, metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file: the header with its metadata, then each tensor.

    C-contiguous little-endian tensors are not copied, so that memory does not grow with the file.

    Raises:
      TypeError: a tensor is not a float array; raised before the first bytes are yielded.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_CODES:
            raise TypeError(f"{name} must be a floating-point array, got {tensor.dtype}")
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
    """Read every tensor of a file of float tensors.

    Raises:
      ValueError: the header is malformed, a dtype is not a float, or the tensors do not fill the file without
        gap or overlap.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, size, path)
        tensors = {}
        for name, (dtype, shape) in _checked_entries(header, size - file.tell(), path).items():
            array = np.empty(shape, dtype.newbyteorder("<"))
            if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise ValueError(f"{path} ended while it was read")
            tensors[name] = array.astype(dtype, copy=False)
    return tensors


def _read_header(file: BinaryIO, size: int, path: Path) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, HEADER_LIMIT):
        raise ValueError(f"{path} is not a safetensors file: its header does not fit in {size} bytes")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has a malformed safetensors header: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} has a malformed safetensors header: it is not a JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    header = dict(pairs)
    if len(header) != len(pairs):
        raise ValueError("a name occurs twice")
    return header


def _checked_entries(
    header: dict[str, Any], size: int, path: Path
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return the dtype and shape of each tensor, in the order of the data, after a check of all sizes."""
    dtypes = {code: dtype for dtype, code in DTYPE_CODES.items()}
    entries = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = dtypes[entry["dtype"]], tuple(entry["shape"])
            start, stop = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has a malformed entry for {name!r}: {error!r}") from error
        if any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
            raise ValueError(f"{path} has a malformed entry for {name!r}: {entry}")
        entries.append((start, stop, name, dtype, shape))
    entries.sort(key=lambda entry: entry[:3])
    offset = 0
    for start, stop, name, dtype, shape in entries:
        if start != offset or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path} has wrong data offsets for {name!r}: {[start, stop]}")
        offset = stop
    if offset != size:
        raise ValueError(f"{path} has {size} bytes of data, but its tensors take {offset}")
    return {name: (dtype, shape) for _, _, name, dtype, shape in entries}
