"""Parts of an axis: slices, splits and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.models.operators.axes import axis, slice_of
from jaxlstm.models.operators.registry import Kwargs, register_operator


def _set(base: jax.Array, view: jax.Array, dim: int, where: int | slice | np.ndarray) -> jax.Array:
    return base.at[(slice(None),) * axis(base, dim) + (where,)].set(view)


def _select_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return _set(base, view, kwargs["dim"], kwargs["index"])


@register_operator("aten.select.int", write_back=_select_back)
def select(self: jax.Array, dim: int, index: int) -> jax.Array:
    """Return one slice of an axis, without the axis."""
    place = axis(self, dim)
    size = self.shape[place]
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for axis {dim} of size {size}")
    return jax.lax.index_in_dim(self, index, place, keepdims=False)


def _slice_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    dim = kwargs.get("dim", 0)
    bounds = (kwargs.get("start"), kwargs.get("end"), kwargs.get("step", 1))
    return _set(base, view, dim, slice_of(base.shape[axis(base, dim)], *bounds))


@register_operator("aten.slice.Tensor", write_back=_slice_back)
def slice_(
    self: jax.Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    """Return a range of an axis; bounds beyond the axis are clamped."""
    place = axis(self, dim)
    return self[(slice(None),) * place + (slice_of(self.shape[place], start, end, step),)]


def _narrow_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    start = kwargs["start"] % max(base.shape[axis(base, kwargs["dim"])], 1)
    return _set(base, view, kwargs["dim"], slice(start, start + kwargs["length"]))


@register_operator("aten.narrow.default", write_back=_narrow_back)
def narrow(self: jax.Array, dim: int, start: int, length: int) -> jax.Array:
    """Return ``length`` elements of an axis from ``start``."""
    place = axis(self, dim)
    size = self.shape[place]
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        raise IndexError(f"start {start} and length {length} leave axis {dim} of size {size}")
    return jax.lax.slice_in_dim(self, first, first + length, axis=place)


def _split_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    size = kwargs["split_size"]
    return _set(base, view, kwargs.get("dim", 0), slice(index * size, (index + 1) * size))


@register_operator("aten.split.Tensor", write_back=_split_back)
def split(self: jax.Array, split_size: int, dim: int = 0) -> list[jax.Array]:
    """Split an axis into parts of a size; the last part may be smaller."""
    place = axis(self, dim)
    size = self.shape[place]
    if split_size == 0 and size == 0:
        return [self]
    if split_size <= 0:
        raise ValueError(f"split_size must be positive for an axis of size {size}, got {split_size}")
    return [
        jax.lax.slice_in_dim(self, start, min(start + split_size, size), axis=place)
        for start in range(0, max(size, 1), split_size)
    ]


def _chunk_size(size: int, chunks: int) -> int:
    return max(-(-size // chunks), 1)


def _chunk_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    dim = kwargs.get("dim", 0)
    size = _chunk_size(base.shape[axis(base, dim)], kwargs["chunks"])
    return _set(base, view, dim, slice(index * size, (index + 1) * size))


@register_operator("aten.chunk.default", write_back=_chunk_back)
def chunk(self: jax.Array, chunks: int, dim: int = 0) -> list[jax.Array]:
    """Split an axis into at most ``chunks`` parts of equal size; the last part may be smaller."""
    return split(self, _chunk_size(self.shape[axis(self, dim)], chunks), dim)


def _sizes_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    sizes = kwargs.get("split_sizes", kwargs.get("split_size"))
    assert sizes is not None
    start = sum(sizes[:index])
    return _set(base, view, kwargs.get("dim", 0), slice(start, start + sizes[index]))


@register_operator("aten.split_with_sizes.default", "aten.split.sizes", write_back=_sizes_back)
def split_with_sizes(
    self: jax.Array, split_sizes: Sequence[int] | None = None, dim: int = 0, split_size: Any = None
) -> list[jax.Array]:
    """Split an axis into parts of given sizes."""
    sizes = split_size if split_sizes is None else split_sizes
    place = axis(self, dim)
    if sum(sizes) != self.shape[place] or min(sizes, default=0) < 0:
        raise ValueError(
            f"split_sizes must not be negative and must add up to {self.shape[place]}, got {tuple(sizes)}"
        )
    return jnp.split(self, np.cumsum(sizes)[:-1].tolist(), place)


def _unbind_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return _set(base, view, kwargs.get("dim", 0), index)


@register_operator("aten.unbind.int", write_back=_unbind_back)
def unbind(self: jax.Array, dim: int = 0) -> list[jax.Array]:
    """Return the slices of an axis, without the axis."""
    place = axis(self, dim)
    return [jax.lax.index_in_dim(self, i, place, keepdims=False) for i in range(self.shape[place])]


def _unfold_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    if kwargs["step"] < kwargs["size"]:
        raise ValueError("an in-place operator writes to windows that overlap, whose elements share memory")
    if base.ndim == 0:
        return view.reshape(base.shape)
    place = axis(base, kwargs["dimension"])
    starts = np.arange(0, base.shape[place] - kwargs["size"] + 1, kwargs["step"])
    windows = jnp.moveaxis(view, -1, place + 1)
    return _set(base, windows, place, starts[:, None] + np.arange(kwargs["size"]))


@register_operator("aten.unfold.default", write_back=_unfold_back)
def unfold(self: jax.Array, dimension: int, size: int, step: int) -> jax.Array:
    """Return all windows of an axis, in a new last axis."""
    if self.ndim == 0:
        return self.reshape(1)[:size]
    place = axis(self, dimension)
    starts = np.arange(0, self.shape[place] - size + 1, step)
    windows = jnp.take(self, starts[:, None] + np.arange(size), axis=place)
    return jnp.moveaxis(windows, place + 1, -1)
