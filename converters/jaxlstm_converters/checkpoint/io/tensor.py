"""Tensors that stay in their file until they are asked for.

A `Storage` is a run of bytes, a `Tensor` is sizes, strides and an offset over one. All numbers
are checked when the tensor is made, against the bytes that are there, before anything is
allocated; the bytes are read, and their checksum compared, in `Tensor.__array__`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import CheckpointError, shown, sketch, sketches
from .source import CHUNK
from .storage import Budget, Storage

MAX_NDIM = 64  # torch's own limit, and numpy's
MAX_OVERLAP = 16 << 20  # bytes spanned by a view that reads elements twice, such as unfold's
BLOCK = 8 << 20  # bytes that a strided read holds beside its result


class Tensor:
    """A tensor of a checkpoint, not read yet. `numpy.asarray(tensor)` reads it.

    Attributes:
        shape: sizes.
        dtype: numpy dtype; those of ml_dtypes for bfloat16 and float8.
        name: its (first) name in the checkpoint.
        storage: the bytes it views; tied tensors have the same one.
    """

    __slots__ = (
        "_offset",
        "_reported",
        "_strides",
        "_warnings",
        "dtype",
        "name",
        "shape",
        "storage",
    )

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
        self._reported = False

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
            self.name = name
        self._warnings = warnings

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
            self._read(raw, result)
            self._report_nonfinite(result)
        return result if dtype is None else result.astype(dtype, copy=False)

    def _read(self, raw: np.ndarray, result: np.ndarray) -> None:
        """Fill the array; `raw` is its bytes."""
        if self._is_contiguous():
            self.storage.read_into(self._offset * self.dtype.itemsize, raw.data)
        else:
            self._gather(result, self._strides, self._offset)
        if self.storage.swapped:
            _swap_bytes(raw, self.dtype)

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
            # The stride of one element leads nowhere, and may be any number.
            steps = (s if n > 1 else 0 for n, s in zip(out.shape, strides, strict=True))
            byte_strides = tuple(s * itemsize for s in steps)
            out[...] = np.ndarray(out.shape, self.dtype, raw, strides=byte_strides)
            return
        axis = extents.index(max(extents))
        half = out.shape[axis] // 2
        head, tail = np.split(out, [half], axis)  # two views
        self._gather(head, strides, offset)
        self._gather(tail, strides, offset + half * strides[axis])

    def _report_nonfinite(self, array: np.ndarray) -> None:
        if self._warnings is None or self._reported or self.dtype.kind in "biu":
            return
        flat = array.reshape(-1)
        bad = 0
        with np.errstate(invalid="ignore"):  # signalling NaNs of narrow floats, which are widened
            for start in range(0, flat.size, CHUNK):
                bad += int((~np.isfinite(flat[start : start + CHUNK])).sum())
        if bad:
            self._reported = True
            self._warnings.append(
                f"{shown(self.name)!r} holds {bad} values that are NaN or infinite"
            )


class StackedTensor(Tensor):
    """Several tensors, one above the other on the first axis."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Tensor]) -> None:
        first = parts[0]
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        strides = contiguous_strides(shape)
        super().__init__(first.storage, first.dtype, shape, strides=strides, offset=0)
        self._parts = tuple(parts)

    def _read(self, raw: np.ndarray, result: np.ndarray) -> None:
        row = byte = 0
        for part in self._parts:
            part._read(raw[byte : byte + part.nbytes], result[row : row + part.shape[0]])
            row += part.shape[0]
            byte += part.nbytes


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
            "tensor-shape",
            f"sizes {sketches(sizes)} with strides {sketches(steps)} and offset {sketch(offset)}",
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
        raise CheckpointError("tensor-shape", f"sizes {sketches(shape)} are not those of a tensor")
    # An empty tensor needs no bytes, but numpy and XLA multiply its sizes, and overflow.
    if 0 in shape and math.prod(max(n, 1) for n in shape) > 1 << 48:
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
