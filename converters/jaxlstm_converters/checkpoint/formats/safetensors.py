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
    entries = [_parse_entry(name, entry) for name, entry in header.items()]
    entries.sort(key=lambda entry: entry[:2])
    position = 0
    for start, end, name, dtype, shape in entries:
        if start != position:
            raise CheckpointError(
                "safetensors-layout",
                f"{printable(name)!r} starts at byte {start} of the data, but the tensor before it "
                f"ends at {position}",
                data_start + position,
            )
        storage = Storage(source, data_start + start, end - start)
        label = repr(printable(name))
        checkpoint.add(name, make_array(storage, dtype, shape, budget=budget, label=label))
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


def _parse_entry(name: str, entry: Any) -> tuple[int, int, str, np.dtype[Any], list[Any]]:
    """Return start and end of the data, name, dtype and sizes; `make_array` checks the sizes."""
    shown = repr(printable(name))
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _header_error(
            f"the entry of {shown} does not have exactly the keys dtype, shape and data_offsets"
        )
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(offsets) is not list or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise _header_error(f"the data_offsets of {shown} are not two integers")
    if not 0 <= offsets[0] <= offsets[1] < 1 << 62:
        raise _header_error(
            f"the data_offsets of {shown} are {describe_all(offsets)}, expected 0 <= start <= end"
        )
    if type(code) is not str or code not in DTYPE_CODES:
        message = f"{shown} has dtype {describe(code)}, which is not supported"
        raise CheckpointError("unsupported-tensor", message)
    if type(shape) is not list:
        raise _header_error(f"the shape of {shown} is not a list")
    return offsets[0], offsets[1], name, DTYPES[DTYPE_CODES[code]], shape


def _header_error(message: str) -> CheckpointError:
    return CheckpointError("safetensors-header", message, 8)
