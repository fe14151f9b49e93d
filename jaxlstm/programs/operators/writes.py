"""Copies of a tensor with other elements in some places: a slice, a diagonal, a mask, a list of indices.

Indices are handled as in :mod:`indexing`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.axes import axis, slice_of
from jaxlstm.programs.operators.diagonals import set_diagonal
from jaxlstm.programs.operators.dtypes import Operand, as_array
from jaxlstm.programs.operators.indexing import require_in_range
from jaxlstm.programs.operators.registry import register_operator
from jaxlstm.programs.operators.slices import set_part


@register_operator("aten.select_scatter.default")
def select_scatter(self: jax.Array, src: jax.Array, dim: int, index: int) -> jax.Array:
    """Write one slice of an axis."""
    return set_part(self, src.astype(self.dtype), dim, index)


@register_operator("aten.slice_scatter.default")
def slice_scatter(
    self: jax.Array,
    src: jax.Array,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> jax.Array:
    """Write a range of an axis."""
    where = slice_of(self.shape[axis(self, dim)], start, end, step)
    return set_part(self, src.astype(self.dtype), dim, where)


@register_operator("aten.diagonal_scatter.default")
def diagonal_scatter(
    self: jax.Array, src: jax.Array, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> jax.Array:
    """Write a diagonal of each matrix in the axes ``dim1`` and ``dim2``."""
    return set_diagonal(self, src.astype(self.dtype), offset, dim1, dim2)


@register_operator("aten.fill_diagonal.default")
def fill_diagonal(self: jax.Array, fill_value: Operand, wrap: bool = False) -> jax.Array:
    """Write a number to the diagonal. ``wrap`` starts it again below a tall matrix, after one row."""
    columns = self.shape[-1]
    step = sum(math.prod(self.shape[place:]) for place in range(1, self.ndim + 1))
    end = columns**self.ndim if not wrap or self.ndim > 2 else self.size
    flat = self.reshape(-1).at[: min(end, self.size) : step].set(as_array(fill_value, self.dtype))
    return flat.reshape(self.shape)


@register_operator("aten.index_copy.default")
def index_copy(self: jax.Array, dim: int, index: jax.Array, source: jax.Array) -> jax.Array:
    """Write slices to the slices of an axis at indices."""
    flat, place = self.reshape(self.shape or (1,)), axis(self, dim)
    size = flat.shape[place]
    require_in_range(index, 0, size, "indices of index_copy")
    slices = (slice(None),) * place + (jnp.where(index < 0, size, index).reshape(-1),)
    update = source.reshape((*flat.shape[:place], index.size, *flat.shape[place + 1 :]))
    return flat.at[slices].set(update, mode="drop").reshape(self.shape)


@register_operator("aten.masked_scatter.default")
def masked_scatter(self: jax.Array, mask: jax.Array, source: jax.Array) -> jax.Array:
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
    taken = elements.at[jnp.maximum(places, 0)].get(mode="fill")
    return jnp.where(mask, taken.reshape(shape), self)


@register_operator("aten.take.default")
def take(self: jax.Array, index: jax.Array) -> jax.Array:
    """Return elements of the flattened tensor; negative indices count from the end."""
    return self.reshape(-1).at[_flat(self, index)].get(mode="fill")


@register_operator("aten.put.default")
def put(self: jax.Array, index: jax.Array, source: jax.Array, accumulate: bool = False) -> jax.Array:
    """Write elements of the flattened tensor; negative indices count from the end."""
    places = self.reshape(-1).at[_flat(self, index).reshape(-1)]
    update = places.add if accumulate else places.set
    return update(source.reshape(-1).astype(self.dtype), mode="drop").reshape(self.shape)


def _flat(x: jax.Array, index: jax.Array) -> jax.Array:
    """Return indices of the flattened tensor that are not negative; those out of range are too large."""
    require_in_range(index, -x.size, x.size, "indices of a flattened tensor")
    return jnp.where(index < -x.size, x.size, jnp.where(index < 0, index + x.size, index))
