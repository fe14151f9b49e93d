"""Views and copies: operators that move elements and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.models.operators.axes import axes, axis, axis_of, slice_of
from jaxlstm.models.operators.dtypes import Operand, as_array, held, promoted
from jaxlstm.models.operators.registry import register_operator, same

Kwargs = Mapping[str, Any]


def _reshape_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    if base.size != view.size:
        raise ValueError("an in-place operator writes to an expanded tensor, whose elements share memory")
    return view.reshape(base.shape)


def _transpose_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return transpose(view, **kwargs)


def _permute_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return jnp.transpose(view, np.argsort([axis(view, dim) for dim in kwargs["dims"]]).tolist())


def _t_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return t(view)


def _set(base: jax.Array, view: jax.Array, dim: int, where: int | slice | np.ndarray) -> jax.Array:
    return base.at[(slice(None),) * axis(base, dim) + (where,)].set(view)


def _select_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return _set(base, view, kwargs["dim"], kwargs["index"])


def _slice_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    dim = kwargs.get("dim", 0)
    bounds = (kwargs.get("start"), kwargs.get("end"), kwargs.get("step", 1))
    return _set(base, view, dim, slice_of(base.shape[axis(base, dim)], *bounds))


def _split_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    size = kwargs["split_size"]
    return _set(base, view, kwargs.get("dim", 0), slice(index * size, (index + 1) * size))


@register_operator("aten.view.default", write_back=_reshape_back)
def view(self: jax.Array, size: Sequence[int]) -> jax.Array:
    """Return the elements in another shape; one size may be -1."""
    return reshape(self, size)


@register_operator("aten.reshape.default", "aten._unsafe_view.default", may_alias=True)
def reshape(self: jax.Array, shape: Sequence[int] | None = None, size: Any = None) -> jax.Array:
    """Return the elements in another shape; one size may be -1."""
    return jnp.reshape(self, tuple(size if shape is None else shape))


@register_operator("aten.flatten.using_ints", may_alias=True)
def flatten(self: jax.Array, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
    """Merge the axes from ``start_dim`` to ``end_dim`` into one."""
    start, end = axis(self, start_dim), axis(self, end_dim)
    if self.ndim == 0:
        return self.reshape(1)
    merged = math.prod(self.shape[start : end + 1])
    return self.reshape(*self.shape[:start], merged, *self.shape[end + 1 :])


@register_operator("aten.unflatten.int", write_back=_reshape_back)
def unflatten(self: jax.Array, dim: int, sizes: Sequence[int]) -> jax.Array:
    """Split an axis into several; one size may be -1."""
    place = axis(self, dim)
    known = math.prod(size for size in sizes if size != -1)
    split = tuple(self.shape[place] // known if size == -1 else size for size in sizes)
    if math.prod(split) != self.shape[place]:
        raise ValueError(
            f"sizes {tuple(sizes)} do not multiply to {self.shape[place]}, the size of axis {dim}"
        )
    return self.reshape(*self.shape[:place], *split, *self.shape[place + 1 :])


@register_operator("aten.transpose.int", write_back=_transpose_back)
def transpose(self: jax.Array, dim0: int, dim1: int) -> jax.Array:
    """Swap two axes."""
    return jnp.swapaxes(self, axis(self, dim0), axis(self, dim1)) if self.ndim else self


@register_operator("aten.t.default", "aten.numpy_T.default", write_back=_t_back)
def t(self: jax.Array) -> jax.Array:
    """Transpose a matrix; a vector stays."""
    return self.T


@register_operator("aten.permute.default", write_back=_permute_back)
def permute(self: jax.Array, dims: Sequence[int]) -> jax.Array:
    """Reorder the axes."""
    return jnp.transpose(self, [axis(self, dim) for dim in dims])


@register_operator("aten.unsqueeze.default", write_back=_reshape_back)
def unsqueeze(self: jax.Array, dim: int) -> jax.Array:
    """Insert an axis of size 1."""
    return jnp.expand_dims(self, axis_of(self.ndim + 1, dim))


@register_operator("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", write_back=_reshape_back)
def squeeze(self: jax.Array, dim: Any = None) -> jax.Array:
    """Remove axes of size 1, all of them or only among ``dim``."""
    # An empty list of axes removes none.
    candidates = () if dim == () else axes(self, dim)
    return jnp.squeeze(self, tuple(place for place in candidates if self.shape[place] == 1))


@register_operator("aten.select.int", write_back=_select_back)
def select(self: jax.Array, dim: int, index: int) -> jax.Array:
    """Return one slice of an axis, without the axis."""
    place = axis(self, dim)
    size = self.shape[place]
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for axis {dim} of size {size}")
    return jax.lax.index_in_dim(self, index, place, keepdims=False)


@register_operator("aten.slice.Tensor", write_back=_slice_back)
def slice_(
    self: jax.Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    """Return a range of an axis; bounds beyond the axis are clamped."""
    place = axis(self, dim)
    return self[(slice(None),) * place + (slice_of(self.shape[place], start, end, step),)]


@register_operator("aten.expand.default", "aten.broadcast_to.default", write_back=_reshape_back)
def expand(self: jax.Array, size: Sequence[int], implicit: bool = False) -> jax.Array:
    """Repeat axes of size 1 and add axes in front; -1 keeps a size."""
    added = len(size) - self.ndim
    kept = (*((1,) * added), *self.shape)
    return jnp.broadcast_to(self, [own if new == -1 else new for own, new in zip(kept, size, strict=True)])


@register_operator("aten.expand_as.default", write_back=_reshape_back)
def expand_as(self: jax.Array, other: jax.Array) -> jax.Array:
    """Expand to the shape of another tensor."""
    return jnp.broadcast_to(self, other.shape)


@register_operator("aten.alias.default", "aten.detach.default", "aten.lift_fresh.default", write_back=same)
def alias(self: jax.Array) -> jax.Array:
    """Return the tensor itself."""
    return self


@register_operator("aten.contiguous.default", may_alias=True)
def contiguous(self: jax.Array) -> jax.Array:
    """Return the tensor itself: JAX has no strides."""
    return self


@register_operator("aten.clone.default", "aten.lift_fresh_copy.default")
def clone(self: jax.Array) -> jax.Array:
    """Return a copy."""
    return self


@register_operator("aten.cat.default", "aten.concat.default")
def cat(tensors: Sequence[jax.Array], dim: int = 0) -> jax.Array:
    """Concatenate along an axis. Tensors of shape (0,) are skipped, whatever the other shapes."""
    arrays = promoted(*tensors)
    kept = [array for array in arrays if array.shape != (0,)] or arrays
    return jnp.concatenate(kept, axis(kept[0], dim))


@register_operator("aten.stack.default")
def stack(tensors: Sequence[jax.Array], dim: int = 0) -> jax.Array:
    """Concatenate along a new axis."""
    arrays = promoted(*tensors)
    return jnp.stack(arrays, axis_of(arrays[0].ndim + 1, dim))


@register_operator("aten.repeat.default")
def repeat(self: jax.Array, repeats: Sequence[int]) -> jax.Array:
    """Tile the tensor; axes are added in front if there are more repeats than axes."""
    return jnp.tile(self.reshape((1,) * (len(repeats) - self.ndim) + self.shape), repeats)


@register_operator("aten.flip.default")
def flip(self: jax.Array, dims: Sequence[int]) -> jax.Array:
    """Reverse axes."""
    return jnp.flip(self, axes(self, dims) if dims else ())


@register_operator(
    "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten._to_copy.default", may_alias=True
)
def to_dtype(self: jax.Array, dtype: Any = None, copy: bool = False) -> jax.Array:
    """Convert to a dtype; floats are truncated to integers."""
    return self if dtype is None else self.astype(held(dtype))


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


@register_operator("aten.copy.default")
def copy(self: jax.Array, src: jax.Array) -> jax.Array:
    """Return ``src`` in the shape and dtype of ``self``: the functional form of ``copy_``."""
    return jnp.broadcast_to(src.astype(self.dtype), self.shape)


@register_operator("aten.fill.Tensor", "aten.fill.Scalar")
def fill(self: jax.Array, value: Operand) -> jax.Array:
    """Return a number in the shape and dtype of ``self``."""
    return jnp.broadcast_to(as_array(value, self.dtype), self.shape)


@register_operator("aten.zero.default")
def zero(self: jax.Array) -> jax.Array:
    """Return zeros in the shape and dtype of ``self``."""
    return jnp.zeros_like(self)


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


def _movedim_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return jnp.moveaxis(view, kwargs["destination"], kwargs["source"])


@register_operator("aten.movedim.int", "aten.movedim.intlist", write_back=_movedim_back)
def movedim(self: jax.Array, source: Any, destination: Any) -> jax.Array:
    """Move axes to other places."""
    return jnp.moveaxis(self, source, destination)


@register_operator("aten.view_as.default", write_back=_reshape_back)
def view_as(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the elements in the shape of another tensor."""
    return self.reshape(other.shape)


@register_operator("aten.reshape_as.default", may_alias=True)
def reshape_as(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the elements in the shape of another tensor."""
    return self.reshape(other.shape)


@register_operator("aten.type_as.default", may_alias=True)
def type_as(self: jax.Array, other: jax.Array) -> jax.Array:
    """Convert to the dtype of another tensor."""
    return self.astype(other.dtype)


@register_operator("aten.to.other", may_alias=True)
def to_other(self: jax.Array, other: jax.Array, copy: bool = False) -> jax.Array:
    """Convert to the dtype of another tensor."""
    return self.astype(other.dtype)


@register_operator("aten.roll.default")
def roll(self: jax.Array, shifts: Any, dims: Any = ()) -> jax.Array:
    """Rotate elements along axes."""
    return jnp.roll(self, shifts, None if dims == () else dims)


@register_operator("aten.repeat_interleave.self_int")
def repeat_interleave(
    self: jax.Array, repeats: int, dim: int | None = None, output_size: int | None = None
) -> jax.Array:
    """Repeat each element of an axis, or of the flattened tensor."""
    return jnp.repeat(self, repeats, None if dim is None else axis(self, dim))


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
