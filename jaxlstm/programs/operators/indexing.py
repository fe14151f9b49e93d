"""Look-ups and writes by index or mask.

An index that is out of range raises when its value is known, that is outside of ``jax.jit``. Under ``jit``
a look-up gives NaN for floats (the smallest number for integers), and so do all elements after a write.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import Operand, as_array, held
from jaxlstm.programs.operators.registry import register_operator


def require_in_range(indices: Array, low: int, high: int, subject: str) -> Array | bool:
    """Return whether all indices satisfy low <= index < high; if they are known, raise unless they do."""
    if isinstance(indices, Tracer):
        return ((indices >= low) & (indices < high)).all()
    values = np.asarray(indices)
    outside = (values < low) | (values >= high)
    if outside.any():
        raise ProgramError(
            "index-range", f"{subject} must be from {low} to {high - 1}, got {values[outside].flat[0]}"
        )
    return True


def if_valid(array: Array, valid: Array | bool) -> Array:
    """Return an array; unless valid, NaN, the smallest or for unsigned integers the largest number.

    Booleans stay as they are.
    """
    if valid is True or array.dtype == bool:
        return array
    if jnp.issubdtype(array.dtype, jnp.integer):
        limits = jnp.iinfo(array.dtype)
        return jnp.where(valid, array, limits.min or limits.max)
    # A product also gives a gradient of NaN.
    return array * jnp.where(valid, 1, jnp.nan).astype(array.dtype)


@register_operator("aten.index_select.default")
def index_select(self: Array, dim: int, index: Array) -> Array:
    """Return the slices of an axis at indices."""
    if self.ndim == 0:
        return self
    require_in_range(index, 0, self.shape[axis(self, dim)], "indices of index_select")
    return take(self, jnp.atleast_1d(index), axis(self, dim))


def take(x: Array, indices: Array, place: int) -> Array:
    """Return slices; indices that are negative or too large give NaN."""
    beyond = jnp.where(indices < 0, x.shape[place], indices)
    return x.at[(slice(None),) * place + (beyond,)].get(mode="fill")


@register_operator("aten.gather.default")
def gather(self: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:
    """Return elements along an axis, one for each index; the index may be shorter along other axes."""
    if self.ndim == 0:
        return jnp.broadcast_to(self, index.shape)
    if index.size == 0:
        return jnp.zeros(index.shape, self.dtype)
    require_in_range(index, 0, self.shape[axis(self, dim)], "indices of gather")
    return self.at[places_along(self, dim, index)].get(mode="fill")


@register_operator("aten.take_along_dim.default")
def take_along_dim(self: Array, indices: Array, dim: int | None = None) -> Array:
    """Return elements along an axis, one for each index; None flattens both tensors.

    Along an axis, torch takes the remainder of an index that is out of range.
    """
    if dim is None:
        return gather(self.reshape(-1), 0, indices.reshape(-1))
    place = axis(self, dim)
    return jnp.take_along_axis(self, indices % self.shape[place], place, mode="fill")


def places_along(x: Array, dim: int, index: Array) -> tuple[Array, ...]:
    """Return the indices of all axes for an index along one of them."""
    # Unlike jnp.indices, this works for the symbolic sizes of jax.export.
    grids = [jnp.arange(size).reshape(-1, *(1,) * (index.ndim - 1 - n)) for n, size in enumerate(index.shape)]
    place = axis(x, dim)
    grids[place] = jnp.where(index < 0, x.shape[place], index)
    return tuple(grids)


@register_operator("aten.index.Tensor")
def index(self: Array, indices: Sequence[Array | None]) -> Array:
    """Index with integer arrays, as NumPy; None keeps an axis.

    The shape of the result depends on the values of a bool array; under ``jax.jit`` see `prefix`.
    """
    return self.at[_index(self, indices)[0]].get(mode="fill")


@register_operator("aten.masked_select.default")
def masked_select(self: Array, mask: Array) -> Array:
    """Return the elements where a mask is True, in order."""
    shape = jnp.broadcast_shapes(self.shape, mask.shape)
    return jnp.broadcast_to(self, shape)[jnp.broadcast_to(mask, shape)]


@register_operator("jaxlstm.is_between.default")
def is_between(self: Array, dim: int, start: Any = None, end: Any = None, wraps: bool = True) -> Array:
    """Return True for the places of an axis that a slice takes; negative bounds count from the end if so."""
    size = self.shape[dim]
    places = jnp.arange(size)
    start, end = (jnp.where(n < 0, n + size, n) if n is not None and wraps else n for n in (start, end))
    after = places >= (0 if start is None else start)
    return after if end is None else after & (places < end)


@register_operator("jaxlstm.elements_at.default")
def elements_at(self: Array, mask: Array, size: Sequence[int]) -> Array:
    """Return the elements where a mask is True in a shape of as many elements; NaN if there are others."""
    count = math.prod(size)
    fits = mask.sum() == count
    if not isinstance(fits, Tracer) and not fits:
        raise ProgramError("index-range", f"the mask must select {count} elements, got {mask.sum()}")
    places = jnp.flatnonzero(mask, size=count, fill_value=0)
    return self.reshape(-1).at[jnp.where(fits, places, self.size)].get(mode="fill").reshape(size)


@register_operator("aten.nonzero.default")
def nonzero(self: Array) -> Array:
    """Return the indices of all elements that are not 0, one row each."""
    return jnp.argwhere(self)


@register_operator("aten.nonzero_numpy.default", "aten.where.default", schema_names={"condition": "self"})
def nonzero_by_axis(self: Array) -> tuple[Array, ...]:
    """Return the indices of all elements that are not 0, one tensor for each axis."""
    return jnp.nonzero(jnp.atleast_1d(self))


@register_operator("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(self: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False) -> Array:
    """Write values at the places that :func:`index` reads."""
    values, mask = values.astype(self.dtype), indices[0]
    is_alone = all(index is None for index in indices[1:])
    if mask is not None and mask.dtype == jnp.bool_ and is_alone and not accumulate:
        written = _put_masked(self, mask, values)
        if written is not None:
            return written
    places, valid = _index(self, indices)
    update = self.at[places].add if accumulate else self.at[places].set
    return if_valid(update(values, mode="drop"), valid)


def _put_masked(self: Array, mask: Array, values: Array) -> Array | None:
    """Write values where a mask, which unlike an index has a static shape, is True; None if it is known.

    There must be as many values as places; otherwise, all results are NaN.
    """
    ndim = self.ndim - mask.ndim
    by_place = values.shape[: max(values.ndim - ndim, 0)]
    of_elements = mask.reshape(*mask.shape, *(1,) * ndim)
    if math.prod(by_place) == 1:
        return jnp.where(of_elements, values.reshape(values.shape[len(by_place) :]), self)
    if not isinstance(mask, Tracer) or len(by_place) > 1 or not len(values) or self.dtype == jnp.bool_:
        return None  # Booleans have no NaN.
    fits = mask.sum() == len(values)
    rows = jnp.where(fits, jnp.arange(len(values)), len(values))
    values = jnp.broadcast_to(values, (len(values), *self.shape[mask.ndim :]))
    return masked_scatter(self, of_elements | ~fits, values.at[rows].get(mode="fill"))


def _index(x: Array, indices: Sequence[Array | None]) -> tuple[tuple[Any, ...], Any]:
    """Return an index for NumPy's rules, and whether all integers in it are in range."""
    result: list[Any] = []
    place, valid = 0, True
    for item in indices:
        if item is None:
            result.append(slice(None))
            place += 1
        elif item.dtype in (jnp.bool_, jnp.uint8):
            result.append(item.astype(bool))
            place += item.ndim
        else:
            size = x.shape[place]
            valid &= require_in_range(item, -size, size, f"indices of axis {place}")
            result.append(item)
            place += 1
    return tuple(result), valid


@register_operator("aten.masked_fill.Scalar", "aten.masked_fill.Tensor", layout="elementwise")
def masked_fill(self: Array, mask: Array, value: Operand) -> Array:
    """Return ``value`` where the mask is True."""
    return jnp.where(mask, as_array(value, self.dtype), self)


@register_operator("aten.masked_scatter.default")
def masked_scatter(self: Array, mask: Array, source: Array) -> Array:
    """Write the first elements of ``source``, in order, where the mask is True."""
    shape = jnp.broadcast_shapes(self.shape, mask.shape)
    mask = jnp.broadcast_to(mask, shape)
    elements = source.reshape(-1)
    if not isinstance(mask, Tracer) and mask.sum() > elements.size:
        raise ProgramError(
            "index-range", f"source must have {mask.sum()} elements, one for each True, got {elements.size}"
        )
    if not elements.size:
        return jnp.broadcast_to(self, shape)
    places = jnp.cumsum(mask.reshape(-1)) - 1
    elements_by_place = elements.at[jnp.maximum(places, 0)].get(mode="fill")
    return jnp.where(mask, elements_by_place.reshape(shape), self)


@register_operator("aten.one_hot.default")
def one_hot(self: Array, num_classes: int = -1) -> Array:
    """Return 1 at the index of each element in a new last axis, else 0."""
    if num_classes < 0:
        raise ValueError("one_hot needs num_classes: without it the shape depends on the values")
    valid = require_in_range(self, 0, num_classes, "indices of one_hot")
    return if_valid(jax.nn.one_hot(self, num_classes, dtype=held("int64")), valid)


@register_operator("aten.take.default")
def take_flat(self: Array, index: Array) -> Array:
    """Return elements of the flattened tensor; negative indices count from the end."""
    require_in_range(index, -self.size, self.size, "indices of a flattened tensor")
    return self.reshape(-1).at[index].get(mode="fill")


@register_operator("aten.put.default")
def put(self: Array, index: Array, source: Array, accumulate: bool = False) -> Array:
    """Write elements of the flattened tensor; negative indices count from the end."""
    valid = require_in_range(index, -self.size, self.size, "indices of a flattened tensor")
    places = self.reshape(-1).at[index.reshape(-1)]
    update = places.add if accumulate else places.set
    return if_valid(update(source.reshape(-1).astype(self.dtype), mode="drop"), valid).reshape(self.shape)
