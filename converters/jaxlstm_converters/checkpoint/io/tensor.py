"""`Tensor`: a strided view of a storage whose elements are read on demand, and torch's dtypes by name.

`make_tensor` checks sizes, strides and offset against the storage before any memory is allocated.
The bytes are read, and their checksum compared, in `Tensor.read`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm._shared.aligned import aligned

from ..errors import printable
from .files import CHUNK
from .storage import Storage

_NUMPY = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in _NUMPY},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}


# A strided read holds at most this many bytes beside its result.
BLOCK = 8 << 20


@dataclass(slots=True, eq=False, repr=False)
class Tensor:
    """A tensor of a checkpoint that has not been read. `numpy.asarray(tensor)` reads it.

    So do NumPy's functions. Each reads the file again and returns a NumPy array.

    Use `make_tensor` to create one: nothing is checked here.

    Attributes:
        storage: the bytes that it is a view of. Tied tensors share one storage.
        dtype: a NumPy dtype; from ml_dtypes for bfloat16 and float8.
        shape: the sizes.
        name: its name in the checkpoint; the first name of a tied tensor.
    """

    storage: Storage
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    # In elements.
    _strides: tuple[int, ...]
    _offset: int
    name: str = ""
    _warnings: list[str] | None = None
    _nonfinite_reported: bool = False

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the array that reading returns."""
        return self.size * self.dtype.itemsize

    @property
    def identity(self) -> tuple[Any, ...]:
        """A key that is equal for tied tensors, which are the same elements of one storage."""
        return id(self.storage), self._offset, self.shape, self._strides, self.dtype

    @property
    def byte_range(self) -> tuple[int, int]:
        """The first byte of the storage that it covers, and the first byte after its last."""
        strides = zip(self.shape, self._strides, strict=True)
        last = sum((n - 1) * stride for n, stride in strides) if self.size else -1
        return self._offset * self.dtype.itemsize, (self._offset + last + 1) * self.dtype.itemsize

    def set_name(self, name: str, warnings: list[str]) -> None:
        """Set the name, unless it is set, and the list that receives warnings about the values."""
        if self._warnings is None:
            self.name = name
        self._warnings = warnings

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype.name})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read a new, writable, C-contiguous array in native byte order."""
        if copy is False:
            raise ValueError("copy=False is not possible: reading a tensor from a file copies it")
        result = self.read()
        self._report_nonfinite(result)
        return result if dtype is None else result.astype(dtype, copy=False)

    def read(self) -> np.ndarray:
        """Return the array of `numpy.asarray(tensor)` without looking for values that are not finite."""
        raw, _ = aligned(np.empty, (self.nbytes,), np.dtype(np.uint8))
        result = raw.view(self.dtype).reshape(self.shape)
        if self.size:
            self._read(raw, result)
        return result

    def _read(self, raw: np.ndarray, result: np.ndarray) -> None:
        """Fill `result`, whose bytes are `raw`."""
        if self._is_contiguous():
            self.storage.read_into(self._offset * self.dtype.itemsize, raw.data)
        else:
            self._gather(result, self._strides, self._offset)
        if self.storage.big_endian:
            _swap_bytes(raw, self.dtype)

    def _is_contiguous(self) -> bool:
        sizes = zip(self.shape, self._strides, contiguous_strides(self.shape), strict=True)
        return all(n == 1 or stride == dense for n, stride, dense in sizes)

    def _gather(self, out: np.ndarray, strides: tuple[int, ...], offset: int) -> None:
        """Fill `out` from a strided view, halving it until the range to read fits in a block."""
        extents = [(n - 1) * s for n, s in zip(out.shape, strides, strict=True)]
        itemsize = self.dtype.itemsize
        span = (sum(extents) + 1) * itemsize
        if span <= BLOCK or not any(extents):
            raw = np.empty(span, np.uint8)
            self.storage.read_into(offset * itemsize, raw.data)
            # In a dimension of size 1 the stride has no effect and may be any number.
            steps = (s if n > 1 else 0 for n, s in zip(out.shape, strides, strict=True))
            byte_strides = tuple(s * itemsize for s in steps)
            out[...] = np.ndarray(out.shape, self.dtype, raw, strides=byte_strides)
            return
        axis = extents.index(max(extents))
        half = out.shape[axis] // 2
        head, tail = np.split(out, [half], axis)
        self._gather(head, strides, offset)
        self._gather(tail, strides, offset + half * strides[axis])

    def _report_nonfinite(self, array: np.ndarray) -> None:
        if self._warnings is None or self._nonfinite_reported or self.dtype.kind in "biu":
            return
        flat = array.reshape(-1)
        count = 0
        # Widening signalling NaNs of narrow floats sets the invalid flag.
        with np.errstate(invalid="ignore"):
            for start in range(0, flat.size, CHUNK):
                count += int((~np.isfinite(flat[start : start + CHUNK])).sum())
        if count:
            self._nonfinite_reported = True
            name = printable(self.name)
            self._warnings.append(f"{name!r} holds {count} values that are NaN or infinite")


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return row-major strides in elements. As in torch, a size of 0 counts as 1."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def _swap_bytes(raw: np.ndarray, dtype: np.dtype[Any]) -> None:
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    if width > 1:
        raw.view(f"u{width}").byteswap(inplace=True)
