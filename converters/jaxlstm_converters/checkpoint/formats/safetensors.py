"""safetensors: eight bytes with the header length, a JSON header, then the data of the tensors.

The format is specified at https://github.com/huggingface/safetensors#format. This reader is stricter
than the library: it refuses duplicate names.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe, describe_all, printable
from ..io._make_tensor import make_array
from ..io.budget import Budget
from ..io.dtypes import DTYPES
from ..io.source import Source
from ..io.storage import Storage
from ..io.strict_json import read_json

# The limit of the library.
MAX_HEADER = 100_000_000
MAX_TENSORS = 100_000

DTYPE_CODES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def is_safetensors(head: bytes, size: int) -> bool:
    """Return True if a file that starts with `head` may be a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size


def read_safetensors(source: Source, budget: Budget) -> Checkpoint:
    """Read the tensors, in the order of their data."""
    checkpoint = Checkpoint(source.path, "safetensors")
    header, data_start = _read_header(source)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise _header_error("__metadata__ is not a dictionary of strings")
    checkpoint.metadata = metadata
    if len(header) > MAX_TENSORS:
        raise _header_error(f"the header lists {len(header)} tensors; the limit is {MAX_TENSORS}")
    ordered = sorted(
        ((*_byte_range(name, entry), name, entry) for name, entry in header.items()),
        key=lambda item: item[:2],
    )
    position = 0
    for start, end, name, entry in ordered:
        if start != position:
            raise CheckpointError(
                "safetensors-layout",
                f"{printable(name)!r} starts at byte {start} of the data, but the tensor before it "
                f"ends at {position}",
                data_start + position,
            )
        tensor = make_array(
            Storage(source, data_start + start, end - start),
            _dtype(name, entry),
            _shape(name, entry),
            budget=budget,
            label=repr(printable(name)),
        )
        checkpoint.add(name, tensor)
        position = end
    if data_start + position != source.size:
        raise CheckpointError(
            "trailing-bytes" if data_start + position < source.size else "truncated",
            f"the last tensor ends at byte {data_start + position}, but the file has {source.size}",
            data_start + position,
        )
    return checkpoint


def _read_header(source: Source) -> tuple[dict[str, Any], int]:
    """Return the header and the offset of the data."""
    (length,) = struct.unpack("<Q", source.read(0, 8))
    limit = min(MAX_HEADER, source.size - 8)
    if length > limit:
        raise _header_error(f"the header declares {length} bytes, expected at most {limit}")
    return read_json(source, 8, length, "safetensors-header"), 8 + length


def _byte_range(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _header_error(
            f"the entry of {printable(name)!r} does not have exactly the keys dtype, shape and "
            "data_offsets"
        )
    offsets = entry["data_offsets"]
    label = f"the data_offsets of {printable(name)!r}"
    if type(offsets) is not list or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise _header_error(f"{label} are not two integers")
    start, end = offsets
    if not 0 <= start <= end < 1 << 62:
        raise _header_error(f"{label} are {describe_all(offsets)}, expected 0 <= start <= end")
    return start, end


def _dtype(name: str, entry: dict[str, Any]) -> np.dtype[Any]:
    code = entry["dtype"]
    if type(code) is not str or code not in DTYPE_CODES:
        message = f"{printable(name)!r} has dtype {describe(code)}, which is not supported"
        raise CheckpointError("unsupported-tensor", message)
    return DTYPES[DTYPE_CODES[code]]


def _shape(name: str, entry: dict[str, Any]) -> list[int]:
    if type(entry["shape"]) is not list:
        raise _header_error(f"the shape of {printable(name)!r} is not a list")
    return entry["shape"]


def _header_error(message: str) -> CheckpointError:
    return CheckpointError("safetensors-header", message, 8)
