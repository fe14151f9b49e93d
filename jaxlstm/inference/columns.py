"""Columns of a batch: NumPy, Arrow or Python values as one array per row, and results as an Arrow column."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Input, Size, shown_shape
from jaxlstm.programs.inputs import how_to_free


class RowError(ValueError):
    """A row that a model does not accept.

    Attributes:
      row: its index in the batch.
      column: its column.
      reason: the rest of the message, such as "has shape (5,), expected (time, 5)".
    """

    def __init__(self, row: int, column: str, reason: str) -> None:
        super().__init__(row, column, reason)  # all arguments, for pickle
        self.row, self.column, self.reason = row, column, reason

    def __str__(self) -> str:
        return f"row {self.row} of column {self.column!r} {self.reason}"


@dataclass(frozen=True)
class RowInput:
    """An input of a model, as a row of a column has it.

    Args:
      shape: the shape of a row. A string or None stands for a free size.
      dtype: the dtype that the model takes.
      cast: convert arrays of another dtype.
      finite: refuse NaN and infinity.
      program_input: the input of a program, if it is one.
      ranges: free size -> the smallest and the largest value, None where unbounded.
    """

    column: str
    shape: tuple[Size, ...]
    dtype: np.dtype
    cast: bool = False
    finite: bool = False
    program_input: Input | None = None
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    def array(self, value: Any) -> np.ndarray:
        """Return the value of a row as an array that the model takes.

        Args:
          value: an array, an Arrow list, or lists of Python numbers, which have no dtype and are converted. A
            flat Arrow list is split into steps if the shape is (free, features).

        Raises:
          ValueError: the value does not fit; the message is a ``RowError.reason``.
        """
        if value is None or (hasattr(value, "as_py") and not value.is_valid):
            raise ValueError("is null")
        array = _from_arrow(value, self.shape) if hasattr(value, "as_py") else _dense(value)
        fixed = [(k, size) for k, size in enumerate(self.shape) if isinstance(size, int)]
        wrong_axes = [axis for axis, size in fixed if array.shape[axis : axis + 1] != (size,)]
        if wrong_axes or array.ndim != len(self.shape) or not array.size:
            declared = self.program_input if wrong_axes and array.ndim == len(self.shape) else None
            fix = f". {how_to_free(declared, wrong_axes[0] + 1)}" if declared else ""
            raise ValueError(f"has shape {array.shape}, expected {shown_shape(self.shape)}, not empty{fix}")
        for size, actual in zip(self.shape, array.shape, strict=True):
            low, high = self.ranges.get(str(size), (0, None))
            if actual < low or (high is not None and actual > high):
                bound = f"at least {low}" if actual < low else f"at most {high}"
                raise ValueError(f"has {actual} in axis {size}, expected {bound}")
        array = self._converted(array, cast=self.cast or isinstance(value, list))
        if self.finite and array.dtype.kind not in "biu" and not np.isfinite(array.astype(np.float64)).all():
            raise ValueError("has NaN or infinity")
        return array

    def _converted(self, array: np.ndarray, *, cast: bool) -> np.ndarray:
        dtype = array.dtype.newbyteorder("=")
        widened = self.dtype.kind == dtype.kind == "i" and np.can_cast(dtype, self.dtype)
        if dtype != self.dtype and not widened:
            if not any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer)):
                raise ValueError(f"holds {dtype}, expected real numbers")
            if not cast:
                raise ValueError(f"is {dtype} and the model takes {self.dtype}; pass cast=True to convert it")
        return array.astype(self.dtype, copy=False)


def _dense(value: Any) -> np.ndarray:
    """Return an array, or nested lists or object arrays of equal lengths, as an array."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    try:
        return np.array([_dense(item) for item in value] if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"is not an array of numbers: {error}") from error


def _from_arrow(scalar: Any, shape: tuple[Size, ...]) -> np.ndarray:
    """Return a list of numbers, or nested lists of equal lengths, as an array."""
    from pyarrow.compute import list_value_length  # type: ignore[attr-defined]

    if not _is_list(scalar.type):  # a tensor of an extension type, or no array
        return _dense(scalar.to_numpy() if hasattr(scalar, "to_numpy") else scalar.as_py())
    flat, sizes = scalar.values, [len(scalar.values)]
    while _is_list(flat.type) and not flat.null_count:
        lengths = list_value_length(flat).unique().to_pylist()
        if len(lengths) > 1:
            raise ValueError(f"has lists of different lengths, {sorted(lengths)}")
        flat = flat.flatten()
        sizes += lengths or [0]
    if flat.null_count:
        raise ValueError("contains a null")
    if len(sizes) == 1 and len(shape) == 2 and isinstance(shape[1], int) and sizes[0] % shape[1] == 0:
        sizes = [sizes[0] // shape[1], shape[1]]
    return flat.to_numpy(zero_copy_only=False).reshape(sizes)


def as_rows(column: Any) -> Any:
    """Return an Arrow column of lists of steps as a list of arrays, and any other column as it is.

    The arrays are views of Arrow's memory. None stands for null.
    """
    rows: list[np.ndarray | None] = []
    for chunk in getattr(column, "chunks", [column]):
        if not hasattr(chunk, "offsets") or not hasattr(chunk.values, "offsets"):
            return column
        steps, flat = chunk.values, chunk.values.values
        places, starts = steps.offsets.to_numpy(), chunk.offsets.to_numpy()
        widths = np.diff(places)
        is_dense = len(widths) and widths[0] and (widths == widths[0]).all()
        is_numeric = np.dtype(flat.type.to_pandas_dtype()).kind in "fiu"
        if not is_dense or steps.null_count or flat.null_count or not is_numeric:
            return column
        dense = flat.to_numpy()[places[0] : places[-1]].reshape(-1, widths[0])
        ranges = zip(starts[:-1], starts[1:], chunk.is_valid(), strict=True)
        rows += [dense[start:end] if valid.as_py() else None for start, end, valid in ranges]
    return rows


def _is_list(kind: Any) -> bool:
    import pyarrow

    return isinstance(kind, (pyarrow.ListType, pyarrow.LargeListType, pyarrow.FixedSizeListType))


def arrow_column(arrays: Sequence[np.ndarray | None], blank: np.ndarray) -> Any:
    """Return arrays of equal rank as an Arrow array of nested lists, with null for None.

    Arrow has no bfloat16: such arrays become float32, without loss.
    """
    import pyarrow

    if not blank.ndim:
        kind = "string" if blank.dtype == object else str(blank.dtype)
        return pyarrow.array([None if array is None else np.asarray(array)[()] for array in arrays], kind)
    missing = np.array([array is None for array in arrays], bool)
    present = [blank if array is None else array for array in arrays]
    dtype = np.dtype(np.float32) if blank.dtype.name == "bfloat16" else blank.dtype
    ends = np.cumsum([0] + [array.size for array in present])
    flat = _joined(present)
    if flat is None or flat.dtype != dtype:
        flat = arrow_memory((ends[-1],), dtype)
        for array, start in zip(present, ends, strict=False):
            flat[start : start + array.size].reshape(array.shape)[...] = array
    column = pyarrow.array(flat)
    for axis in reversed(range(blank.ndim)):
        lists = [math.prod(array.shape[:axis]) for array in present]
        lengths = np.repeat([array.shape[axis] for array in present], lists)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        mask = None if axis or not missing.any() else pyarrow.array(missing)
        is_large = offsets[-1] > np.iinfo(np.int32).max
        kind = pyarrow.LargeListArray if is_large else pyarrow.ListArray
        offsets = pyarrow.array(offsets, pyarrow.int64() if is_large else pyarrow.int32())
        column = kind.from_arrays(offsets, column, mask=mask)
    return column


def arrow_memory(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a new array, in memory of Arrow if installed, which keeps freed memory for the next batch."""
    try:
        import pyarrow
    except ImportError:
        return np.empty(shape, dtype)
    size = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(pyarrow.allocate_buffer(size), dtype).reshape(shape)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the flat array of which the arrays are the parts in order, or None if there is none."""
    nonempty = [array for array in arrays if array.size]
    flat = nonempty[0].base if nonempty else None
    if not isinstance(flat, np.ndarray) or flat.ndim != 1:
        return None
    ends = np.cumsum([flat.ctypes.data, *(array.nbytes for array in nonempty)])
    places = [a.ctypes.data if a.base is flat and a.flags.c_contiguous else 0 for a in nonempty]
    return flat if [*places, flat.ctypes.data + flat.nbytes] == ends.tolist() else None
