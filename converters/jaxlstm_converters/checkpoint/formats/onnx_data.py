"""The data of ONNX tensors: bytes or numbers in the model, or a range of a file beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import CheckpointError, describe
from ..io._make_tensor import Budget
from ..io.files import CheckpointFile, open_beside
from ..io.storage import Storage
from ..io.tensor import DTYPES

# onnx.TensorProto.DataType
DATA_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
    15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 19: "float8_e5m2", 24: "float8_e8m0fnu",
}  # fmt: skip
EXTERNAL = 1
# Each keeps a file open.
MAX_FILES = 400
NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass
class ExternalFiles:
    """The files with external data, which must be in the folder of the model. Each is opened once."""

    model: str
    budget: Budget
    _by_name: dict[str, CheckpointFile] = field(default_factory=dict)

    def open(self, name: Any) -> CheckpointFile:
        """Return the file with this name."""
        if name not in self._by_name:
            if len(self._by_name) == MAX_FILES:
                message = f"the data of the model is in more than {MAX_FILES} files"
                raise CheckpointError("onnx-unsupported", message)
            file = self._by_name[name] = open_beside(self.model, name, "missing-storage")
            self.budget.add_file(file.size)
        return self._by_name[name]


@dataclass(slots=True, eq=False)
class OnnxStorage(Storage):
    """Data in the parsed model, which is copied at each read."""

    proto: Any = None

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on."""
        assert self.dtype is not None
        target[:] = _stored_bytes(self.proto, self.dtype)[start : start + len(target)]


def data_type(code: int) -> np.dtype[Any] | None:
    """Return the dtype with this number in ONNX's schema, or None if it is not supported."""
    return DTYPES.get(DATA_TYPES.get(code, ""))


def open_data(
    tensor: Any, dtype: np.dtype[Any], shape: Sequence[int], files: ExternalFiles, shown: str
) -> Storage | None:
    """Return the data of a TensorProto, whose size `make_array` compares with the shape.

    Returns None for numbers that are not packed as bytes, of a dtype for which that is rare.
    """
    fields = (tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data, tensor.uint64_data)
    count = sum(map(len, fields))
    places = (count > 0) + tensor.HasField("raw_data") + (tensor.data_location == EXTERNAL)
    if places > 1 or tensor.HasField("segment"):
        raise CheckpointError("onnx-malformed", f"the data of {shown} is in several places")
    if count != len(_numbers(tensor, dtype)):
        return None
    if tensor.data_location == EXTERNAL:
        return _external_range(tensor, math.prod(shape) * dtype.itemsize, files, shown)
    return OnnxStorage(None, 0, len(_stored_bytes(tensor, dtype)), proto=tensor)


def _external_range(tensor: Any, nbytes: int, files: ExternalFiles, shown: str) -> Storage:
    """Return the range of a file that `external_data` names, by default all that the shape needs."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or "location" not in entries:
        message = f"the external data of {shown} has no location, or a key twice"
        raise CheckpointError("onnx-malformed", message)
    file = files.open(entries["location"])
    offset = _number(entries.get("offset", "0"), shown)
    length = _number(entries["length"], shown) if "length" in entries else nbytes
    if length < 0 or offset + length > file.size:
        raise CheckpointError(
            "truncated",
            f"the data of {shown} is {length} bytes at {offset}, but the file has {file.size}",
            path=file.path,
        )
    return Storage(file, offset, length)


def _number(text: Any, shown: str) -> int:
    if type(text) is not str or not NUMBER.fullmatch(text):
        message = f"the offset or length of the external data of {shown} is {describe(text)}"
        raise CheckpointError("onnx-malformed", message)
    return int(text)


def _numbers(tensor: Any, dtype: np.dtype[Any]) -> Any:
    """Return the field for numbers that a tensor of this dtype may use; () for other dtypes.

    A complex number is a pair of floats.
    """
    fields = {
        "float32": tensor.float_data,
        "complex64": tensor.float_data,
        "float64": tensor.double_data,
        "complex128": tensor.double_data,
        "int32": tensor.int32_data,
        "int64": tensor.int64_data,
    }
    return fields.get(dtype.name, ())


def _stored_bytes(tensor: Any, dtype: np.dtype[Any]) -> bytes:
    """Return the little-endian bytes of the elements."""
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    numbers = _numbers(tensor, dtype)
    if dtype.name in ("float32", "complex64"):
        # A Python float in between would change the bits of a signalling NaN.
        packed = type(tensor)()
        packed.float_data.MergeFrom(numbers)
        return packed.SerializeToString()[-4 * len(numbers) :]
    part = "<f8" if dtype.name == "complex128" else dtype.newbyteorder("<")
    return np.fromiter(numbers, part, len(numbers)).tobytes()
