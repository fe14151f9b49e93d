"""Tensors that stay in their file until they are asked for.

A `Storage` is a run of bytes, a `Tensor` is sizes, strides and an offset over one. All numbers
are checked when the tensor is made, against the bytes that are there, before anything is
allocated; the bytes are read, and their checksum compared, in `Tensor.__array__`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from .errors import CheckpointError, shown
from .source import CHUNK, Source

MAX_NDIM = 64  # torch's own limit, and numpy's
SLACK = 32 << 20  # bytes that one expanded (stride 0) tensor may need beyond the file's size
TOTAL_SLACK, TOTAL_FACTOR = 1 << 30, 16  # the same for all tensors: views and ties repeat bytes
MAX_OVERLAP = 16 << 20  # bytes spanned by a view that reads elements twice, such as unfold's
BLOCK = 8 << 20  # bytes that a strided read holds beside its result

# Every dtype of torch that numpy or ml_dtypes has, by torch's name.
DTYPES: dict[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name)
        for name in (
            *("float16", "float32", "float64", "complex64", "complex128", "bool"),
            *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        )
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


class Budget:
    """How many bytes the tensors of one file may need, all views written out."""

    def __init__(self, file_size: int) -> None:
        self._one = file_size + SLACK
        self._left = TOTAL_FACTOR * file_size + TOTAL_SLACK

    def spend(self, nbytes: int) -> None:
        """Take `nbytes`, or raise `tensor-budget`."""
        self._left -= nbytes
        if nbytes > self._one or self._left < 0:
            raise CheckpointError(
                "tensor-budget",
                f"a tensor of {nbytes} bytes is far more than its file holds; "
                "save expanded tensors after .contiguous() or .clone()",
            )


@dataclass(slots=True, eq=False)
class Storage:
    """A run of bytes in a file, which tensors are views of.

    Attributes:
        source: the file; None if `data` holds the bytes.
        offset: first byte.
        nbytes: length.
        swapped: the elements are big-endian.
        crc: the CRC-32 that the container states; None if it states none.
        dtype: the one dtype it is used with; None until it is used.
        data: bytes that had to be decoded to be had (text pickles), instead of a file.
    """

    source: Source | None
    offset: int
    nbytes: int
    swapped: bool = False
    crc: int | None = None
    dtype: np.dtype[Any] | None = None
    data: bytes | None = None
    _verified: bool = field(default=False, repr=False)

    def use_as(self, dtype: np.dtype[Any]) -> None:
        """Fix the dtype on first use; a second one is refused."""
        if self.dtype is not None and self.dtype != dtype:
            raise CheckpointError(
                "storage-dtype",
                f"one storage is used as {self.dtype.name} and as {dtype.name}",
                offset=self.offset,
            )
        self.dtype = dtype

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on, once the checksum of the whole run holds."""
        if self.source is None:
            assert self.data is not None
            target[:] = self.data[start : start + len(target)]
            return
        self.source.check_unchanged()
        whole = start == 0 and len(target) == self.nbytes
        if not whole and self.crc is not None and not self._verified:
            self._compare(self.source.crc(self.offset, self.nbytes))
        self.source.read_into(self.offset + start, target)
        if whole and self.crc is not None:
            self._compare(zlib.crc32(target))
        self.source.check_unchanged()

    def _compare(self, crc: int) -> None:
        if crc != self.crc:
            assert self.source is not None
            raise CheckpointError(
                "crc-mismatch",
                f"the bytes of a storage have checksum {crc:08x}, not {self.crc:08x}",
                offset=self.offset,
                path=self.source.path,
            )
        self._verified = True


class Tensor:
    """A tensor of a checkpoint, not read yet. `numpy.asarray(tensor)` reads it.

    Attributes:
        shape: sizes.
        dtype: numpy dtype; those of ml_dtypes for bfloat16 and float8.
        name: its (first) name in the checkpoint.
        storage: the bytes it views; tied tensors have the same one.
    """

    __slots__ = ("_offset", "_strides", "_warnings", "dtype", "name", "shape", "storage")

    def __init__(
        self,
        storage: Storage,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        *,
        strides: tuple[int, ...],
        offset: int,
    ) -> None:
        # `strides` and `offset` count elements. `make_tensor` is the checked way to get here.
        self.storage = storage
        self.dtype = dtype
        self.shape = shape
        self.name = ""
        self._strides = strides
        self._offset = offset
        self._warnings: list[str] | None = None

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
        """Bytes of the array that reading gives."""
        return self.size * self.dtype.itemsize

    def name_it(self, name: str, warnings: list[str]) -> None:
        """Tell the tensor its name and where to report what its values hold."""
        if self._warnings is None:
            self.name, self._warnings = name, warnings

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype.name})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """A fresh, writable, C-contiguous array in native byte order.

        Raises:
            CheckpointError: `crc-mismatch` or `file-changed`.
            ValueError: copy=False, which cannot be had.
        """
        if copy is False:
            raise ValueError("copy=False: a tensor in a file is always copied; leave copy out")
        raw = np.empty(self.nbytes, np.uint8)
        result = raw.view(self.dtype).reshape(self.shape)
        if self.size:
            if self._is_contiguous():
                self.storage.read_into(self._offset * self.dtype.itemsize, raw.data)
            else:
                self._gather(result, self._strides, self._offset)
            if self.storage.swapped:
                _swap_bytes(raw, self.dtype)
            self._report_nonfinite(result)
        return result if dtype is None else result.astype(dtype, copy=False)

    def _is_contiguous(self) -> bool:
        dense = contiguous_strides(self.shape)
        return all(
            n == 1 or s == d for n, s, d in zip(self.shape, self._strides, dense, strict=True)
        )

    def _gather(self, out: np.ndarray, strides: tuple[int, ...], offset: int) -> None:
        """Fill `out` from a strided view, halving it until what must be held is a block."""
        extents = [(n - 1) * s for n, s in zip(out.shape, strides, strict=True)]
        itemsize = self.dtype.itemsize
        span = (sum(extents) + 1) * itemsize
        if span <= BLOCK or not any(extents):
            raw = np.empty(span, np.uint8)
            self.storage.read_into(offset * itemsize, raw.data)
            byte_strides = tuple(s * itemsize for s in strides)
            out[...] = np.ndarray(out.shape, self.dtype, raw, strides=byte_strides)
            return
        axis = extents.index(max(extents))
        half = out.shape[axis] // 2
        head, tail = np.split(out, [half], axis)  # two views
        self._gather(head, strides, offset)
        self._gather(tail, strides, offset + half * strides[axis])

    def _report_nonfinite(self, array: np.ndarray) -> None:
        if self._warnings is None or self.dtype.kind in "biu":
            return
        flat = array.reshape(-1)
        bad = 0
        for start in range(0, flat.size, CHUNK):
            bad += int((~np.isfinite(flat[start : start + CHUNK])).sum())
        text = f"{shown(self.name)!r} holds {bad} values that are NaN or infinite"
        if bad and text not in self._warnings:
            self._warnings.append(text)


def make_tensor(
    storage: Storage,
    dtype: np.dtype[Any],
    shape: Sequence[Any],
    *,
    budget: Budget,
    strides: Sequence[Any] | None = None,
    offset: Any = 0,
) -> Tensor:
    """The tensor, once its numbers are found possible.

    Args:
        storage: the bytes.
        dtype: element type.
        shape: sizes.
        budget: what the file's tensors may need in all.
        strides: in elements; contiguous if None.
        offset: of the first element, in elements.

    Raises:
        CheckpointError: storage-dtype, tensor-shape, tensor-bounds or tensor-budget.
    """
    _refuse_impossible(shape)
    sizes = tuple(shape)
    steps = contiguous_strides(sizes) if strides is None else tuple(strides)
    if len(steps) != len(sizes) or not all(_whole(n) for n in (*steps, offset)):
        raise CheckpointError(
            "tensor-shape", f"sizes {sizes} with strides {steps} and offset {offset!r}"
        )
    storage.use_as(dtype)
    available = storage.nbytes // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True))
    empty = 0 in sizes
    if offset > available if empty else last >= available:
        raise CheckpointError(
            "tensor-bounds",
            f"a tensor of sizes {sizes}, strides {steps} and offset {offset} reaches "
            f"outside its storage of {available} elements",
            offset=storage.offset,
        )
    if not empty:
        _refuse_wide_overlap(sizes, steps, dtype.itemsize)
    budget.spend(math.prod(sizes) * dtype.itemsize)
    return Tensor(storage, dtype, sizes, strides=steps, offset=offset)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements, as torch writes them (a size of 0 counts as 1)."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def _whole(n: Any) -> bool:
    return type(n) is int and 0 <= n < 1 << 62


def _refuse_impossible(shape: Sequence[Any]) -> None:
    if len(shape) > MAX_NDIM or not all(_whole(n) for n in shape):
        raise CheckpointError(
            "tensor-shape", f"sizes {shown(repr(tuple(shape)[:8]))} are not those of a tensor"
        )
    # Sizes of an empty tensor count too: numpy and XLA multiply them, and overflow.
    if math.prod(max(n, 1) for n in shape) > 1 << 48:
        raise CheckpointError("tensor-shape", f"the product of sizes {tuple(shape)} is too large")


def _refuse_wide_overlap(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> None:
    """Views that read elements twice are only read through one block: see `_gather`."""
    reach = 0  # of the dimensions with smaller strides
    overlap = False
    for step, n in sorted(zip(strides, shape, strict=True)):
        if n > 1 and step > 0:
            overlap |= step <= reach
            reach += (n - 1) * step
    if overlap and (reach + 1) * itemsize > MAX_OVERLAP:
        raise CheckpointError(
            "tensor-bounds",
            f"a view of sizes {shape} and strides {strides} overlaps itself over a wide range; "
            "save it after .contiguous()",
        )


def _swap_bytes(raw: np.ndarray, dtype: np.dtype[Any]) -> None:
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    if width > 1:
        raw.view(f"u{width}").byteswap(inplace=True)
