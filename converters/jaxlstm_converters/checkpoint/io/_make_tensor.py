"""`make_tensor` and `make_array`: tensors after all checks, within the `Budget` of a file."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import CheckpointError, describe, describe_all
from .files import MemoryFile
from .storage import Storage
from .tensor import Tensor, contiguous_strides

# Bytes of unpickled values, beyond 1.25 times the size of the file.
MEMORY = 42 << 20
SPARE_VISITS = 100_000
# Bytes that one expanded tensor (with stride 0) may need beyond the size of the file.
SLACK = 32 << 20
# The limit for all tensors together is larger: views and ties repeat bytes.
TOTAL_SLACK, TOTAL_FACTOR = 1 << 30, 16


class Budget:
    """The memory and work that one file, or one set of shards, may still cost.

    Attributes:
        memory: bytes left for the values of all pickles of the file, several of which may be alive
            at once.
        visits: repeated visits left to values that have several references.
    """

    __slots__ = ("_all_tensors", "_one_tensor", "memory", "visits")

    def __init__(self, file_size: int) -> None:
        self.memory = MEMORY + file_size * 5 // 4
        self.visits = SPARE_VISITS
        self._one_tensor = file_size + SLACK
        self._all_tensors = TOTAL_FACTOR * file_size + TOTAL_SLACK

    def spend_on_tensor(self, nbytes: int) -> None:
        """Account for a tensor, or raise `tensor-budget` if it is too large for the file."""
        self._all_tensors -= nbytes
        if nbytes > self._one_tensor or self._all_tensors < 0:
            raise CheckpointError(
                "tensor-budget",
                f"a tensor needs {nbytes} bytes, far more than the file holds; "
                "save expanded tensors after .contiguous() or .clone()",
            )


# The limit of torch and NumPy.
MAX_NDIM = 64
# Largest extent in bytes of a view that reads elements twice, such as the result of torch's unfold.
MAX_OVERLAP = 16 << 20


def make_tensor(
    storage: Storage,
    dtype: np.dtype[Any],
    shape: Sequence[Any],
    *,
    budget: Budget,
    strides: Sequence[Any] | None = None,
    offset: Any = 0,
) -> Tensor:
    """Return a view of `storage`, whose strides and offset are in elements; the budget pays for its bytes."""
    _check_sizes(shape)
    sizes = tuple(shape)
    steps = contiguous_strides(sizes) if strides is None else tuple(strides)
    if len(steps) != len(sizes) or not all(_is_size(n) for n in (*steps, offset)):
        raise CheckpointError(
            "tensor-shape",
            f"a tensor has {_geometry(sizes, steps)} and offset {describe(offset)}; "
            "expected integers from 0 to 2**62, with one size and one stride per dimension",
        )
    storage.use_as(dtype)
    available = storage.nbytes // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True))
    empty = 0 in sizes
    if offset > available if empty else last >= available:
        raise CheckpointError(
            "tensor-bounds",
            f"a tensor with {_geometry(sizes, steps)} and offset {offset} extends beyond its storage of "
            f"{available} elements",
            storage.offset,
        )
    if not empty and (_overlap(sizes, steps) + 1) * dtype.itemsize > MAX_OVERLAP:
        raise CheckpointError(
            "tensor-bounds",
            f"a tensor with {_geometry(sizes, steps)} reads elements twice over a wide range; "
            "save it after .contiguous()",
        )
    budget.spend_on_tensor(math.prod(sizes) * dtype.itemsize)
    return Tensor(storage, dtype, sizes, steps, offset)


def make_array(
    storage: Storage,
    dtype: np.dtype[Any],
    shape: Sequence[Any],
    *,
    budget: Budget,
    fortran_order: bool = False,
    label: str = "an array",
) -> Tensor:
    """Return a contiguous tensor that takes up the whole storage, or raise `storage-size`.

    Arguments and other errors are as in `make_tensor`, beside `fortran_order`, column-major
    instead of row-major, and `label`, the tensor in the error message.
    """
    _check_sizes(shape)
    strides = contiguous_strides(shape[::-1])[::-1] if fortran_order else None
    tensor = make_tensor(storage, dtype, shape, budget=budget, strides=strides)
    if tensor.nbytes != storage.nbytes:
        raise CheckpointError(
            "storage-size",
            f"{label} needs {tensor.nbytes} bytes, but the file holds {storage.nbytes} for it",
            None if isinstance(storage.source, MemoryFile) else storage.offset,
        )
    return tensor


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n < 1 << 62


def _check_sizes(shape: Sequence[Any]) -> None:
    if len(shape) > MAX_NDIM:
        problem = f"more than {MAX_NDIM} dimensions"
    elif not all(_is_size(n) for n in shape):
        problem = "expected integers from 0 to 2**62"
    # An empty tensor needs no bytes, but NumPy and XLA multiply its sizes, and overflow.
    elif 0 in shape and math.prod(max(n, 1) for n in shape) > 1 << 48:
        problem = "their product overflows"
    else:
        return
    raise CheckpointError("tensor-shape", f"a tensor has sizes {describe_all(shape)}: {problem}")


def _geometry(sizes: Sequence[Any], strides: Sequence[Any]) -> str:
    return f"sizes {describe_all(sizes)}, strides {describe_all(strides)}"


def _overlap(sizes: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the extent in elements of a view that reads elements twice; -1 for other views.

    Limiting it limits the work of `Tensor._gather`, which reads such a range several times.
    """
    # The extent of the dimensions with smaller strides.
    extent = 0
    overlaps = False
    for step, n in sorted(zip(strides, sizes, strict=True)):
        if n > 1 and step > 0:
            overlaps |= step <= extent
            extent += (n - 1) * step
    return extent if overlaps else -1
