"""The header of a safetensors file, read strictly: https://github.com/huggingface/safetensors#format.

A file holds eight bytes of header length, a JSON header, and the data of the tensors without gap or overlap.
Unlike the safetensors library, this reader refuses duplicate names.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxlstm._shared.strict_json import StrictJSONError, parse_json

# The limit of the library, in bytes.
MAX_HEADER = 100_000_000
MAX_TENSORS = 100_000

DTYPES: dict[str, np.dtype[Any]] = {
    code: np.dtype(dtype)
    for code, dtype in {
        "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
        "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64",
        "F16": "float16", "F32": "float32", "F64": "float64", "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}  # fmt: skip


class SafetensorsError(ValueError):
    """An invalid file. `kind` is "header", "layout", "dtype", "truncated", "trailing" or "repeated"."""

    def __init__(self, kind: str, message: str, offset: int = 8) -> None:
        super().__init__(message)
        self.kind = kind
        self.offset = offset


class TensorEntry(NamedTuple):
    """A tensor of the header: the bytes from `start` to `stop` of the file. The sizes are unchecked."""

    start: int
    stop: int
    name: str
    dtype: np.dtype[Any]
    shape: list[Any]


def header_length(head: bytes, size: int) -> int:
    """Return the length of the header of a file of `size` bytes that begins with `head`."""
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 1 << 64
    limit = max(0, min(MAX_HEADER, size - 8))
    if length > limit:
        raise SafetensorsError("header", f"the header declares {length} bytes, expected at most {limit}")
    return length


def read_header(read: Callable[[int, int], bytes], size: int) -> tuple[dict[str, str], list[TensorEntry]]:
    """Return the metadata and the tensors in the order of their data."""
    length = header_length(read(0, min(8, size)), size)
    try:
        header = parse_json(read(8, length))
    except StrictJSONError as error:
        raise SafetensorsError("repeated" if error.repeats_key else "header", str(error)) from None
    if not isinstance(header, dict):
        raise SafetensorsError("header", "the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise SafetensorsError("header", "__metadata__ is not a dictionary of strings")
    if len(header) > MAX_TENSORS:
        message = f"the header lists {len(header)} tensors; the limit is {MAX_TENSORS}"
        raise SafetensorsError("header", message)
    entries = [_entry(name, value, 8 + length) for name, value in header.items()]
    entries.sort(key=lambda entry: entry[:2])
    _require_filled(entries, 8 + length, size)
    return metadata, entries


def _entry(name: str, value: Any, data_start: int) -> TensorEntry:
    label = repr(name[:100])
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        message = f"the entry of {label} does not have exactly the keys dtype, shape and data_offsets"
        raise SafetensorsError("header", message)
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(offsets) is not list or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise SafetensorsError("header", f"the data_offsets of {label} are not two integers")
    if not 0 <= offsets[0] <= offsets[1] < 1 << 62:
        message = f"the data_offsets of {label} are out of order or out of range"
        raise SafetensorsError("header", message)
    if type(code) is not str or code not in DTYPES:
        text = repr(code[:100]) if type(code) is str else f"a {type(code).__name__}"
        raise SafetensorsError("dtype", f"{label} has dtype {text}, which is not supported")
    if type(shape) is not list:
        raise SafetensorsError("header", f"the shape of {label} is not a list")
    return TensorEntry(data_start + offsets[0], data_start + offsets[1], name, DTYPES[code], shape)


def _require_filled(entries: list[TensorEntry], position: int, size: int) -> None:
    """Raise unless the tensors fill the file from `position` to its end, without gap or overlap."""
    for entry in entries:
        if entry.start != position:
            label = repr(entry.name[:100])
            message = f"{label} starts at byte {entry.start}, but the tensor before it ends at {position}"
            raise SafetensorsError("layout", message, position)
        position = entry.stop
    if position != size:
        kind = "trailing" if position < size else "truncated"
        message = f"the last tensor ends at byte {position}, but the file has {size}"
        raise SafetensorsError(kind, message, position)
