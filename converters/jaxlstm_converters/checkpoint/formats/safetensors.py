"""safetensors: eight bytes of header length, a JSON header, then the bytes of the tensors.

Format: https://github.com/huggingface/safetensors#format. Beyond what the library checks, a name
may not occur twice.
"""

from __future__ import annotations

import struct
from typing import Any

import ml_dtypes
import numpy as np

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, shown, sketch, sketches
from ..io.source import Source
from ..io.storage import DTYPES, Budget, Storage
from ..io.strict_json import read_json
from ..io.tensor import make_tensor
from ..pickle._name_tensors import Named

MAX_HEADER = 100_000_000  # the library's own limit
MAX_ENTRIES = 100_000

NAMES: dict[str, np.dtype[Any]] = {
    "BOOL": DTYPES["bool"],
    "U8": DTYPES["uint8"],
    "I8": DTYPES["int8"],
    "I16": DTYPES["int16"],
    "U16": DTYPES["uint16"],
    "I32": DTYPES["int32"],
    "U32": DTYPES["uint32"],
    "I64": DTYPES["int64"],
    "U64": DTYPES["uint64"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "F32": DTYPES["float32"],
    "F64": DTYPES["float64"],
    "C64": DTYPES["complex64"],
    "F8_E4M3": DTYPES["float8_e4m3fn"],
    "F8_E5M2": DTYPES["float8_e5m2"],
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file that starts with these nine bytes can be one."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size


def read_safetensors(source: Source, budget: Budget) -> Checkpoint:
    """Every tensor, in the order of the bytes."""
    header, data_start = _read_header(source)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise _bad("__metadata__ is not a dictionary of texts")
    if len(header) > MAX_ENTRIES:
        raise _bad(f"{len(header)} tensors are more than any model has")
    placed = sorted(
        ((*_byte_range(name, entry), name, entry) for name, entry in header.items()),
        key=lambda item: item[:2],
    )
    named = Named()
    position = 0
    for start, end, name, entry in placed:
        if start != position:
            raise CheckpointError(
                "safetensors-layout",
                f"{shown(name)!r} starts at {start} and the tensor before ends at {position}",
                offset=data_start + position,
            )
        storage = Storage(source, data_start + start, end - start)
        tensor = make_tensor(storage, _dtype(name, entry), _shape(name, entry), budget=budget)
        if tensor.nbytes != storage.nbytes:
            raise CheckpointError(
                "storage-size",
                f"{shown(name)!r} needs {tensor.nbytes} bytes and has {storage.nbytes}",
                offset=storage.offset,
            )
        tensor.name_it(name, named.warnings)
        named.tensors[name] = tensor
        position = end
    if data_start + position != source.size:
        code = "trailing-bytes" if data_start + position < source.size else "truncated"
        raise CheckpointError(
            code, "the file does not end with its last tensor", offset=data_start + position
        )
    checkpoint = Checkpoint(source.path, "safetensors", named)
    checkpoint.metadata = metadata
    return checkpoint


def _read_header(source: Source) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > min(MAX_HEADER, source.size - 8):
        raise _bad(f"a header of {length} bytes is announced in a file of {source.size}")
    return read_json(source, 8, length, "safetensors-header"), 8 + length


def _byte_range(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"{shown(name)!r} has not just dtype, shape and data_offsets")
    offsets = entry["data_offsets"]
    if type(offsets) is not list or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise _bad(f"the data_offsets of {shown(name)!r} are not two numbers")
    start, end = offsets
    if not 0 <= start <= end < 1 << 62:
        raise _bad(f"the data_offsets of {shown(name)!r} are {sketches(offsets)}")
    return start, end


def _dtype(name: str, entry: dict[str, Any]) -> np.dtype[Any]:
    dtype = NAMES.get(entry["dtype"]) if type(entry["dtype"]) is str else None
    if dtype is None:
        raise CheckpointError(
            "unsupported-tensor",
            f"{shown(name)!r} has dtype {sketch(entry['dtype'])}, which is not read here",
        )
    return dtype


def _shape(name: str, entry: dict[str, Any]) -> list[int]:
    if type(entry["shape"]) is not list:
        raise _bad(f"the shape of {shown(name)!r} is not a list")
    return entry["shape"]


def _bad(message: str) -> CheckpointError:
    return CheckpointError("safetensors-header", message, offset=8)
