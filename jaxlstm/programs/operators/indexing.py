"""Look-ups and masks.

An index that is out of range raises when its value is known, that is outside of ``jax.jit``. Under ``jit``
a look-up gives NaN for floats (the smallest number for integers) and a write drops the element, so a wrong
index never selects a wrong row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import Operand, as_array, held
from jaxlstm.programs.operators.registry import register_operator


def require_in_range(indices: jax.Array, low: int, high: int, what: str) -> None:
    """Raise if known indices are outside of low <= index < high."""
    if isinstance(indices, Tracer) or not indices.size:
        return
    values = np.asarray(indices)
    outside = (values < low) | (values >= high)
    if outside.any():
        raise ProgramError(
            "index-range", f"{what} must be from {low} to {high - 1}, got {values[outside].flat[0]}"
        )


@register_operator("aten.index_select.default")
def index_select(self: jax.Array, dim: int, index: jax.Array) -> jax.Array:
    """Return the slices of an axis at indices."""
    if self.ndim == 0:
        return self
    require_in_range(index, 0, self.shape[axis(self, dim)], "indices of index_select")
    return take(self, jnp.atleast_1d(index), axis(self, dim))


def take(x: jax.Array, indices: jax.Array, place: int) -> jax.Array:
    """Return slices; indices that are negative or too large give NaN."""
    beyond = jnp.where(indices < 0, x.shape[place], indices)
    return x.at[(slice(None),) * place + (beyond,)].get(mode="fill")


@register_operator("aten.gather.default")
def gather(self: jax.Array, dim: int, index: jax.Array, sparse_grad: bool = False) -> jax.Array:
    """Return elements along an axis, one for each index; the index may be shorter along other axes."""
    if self.ndim == 0:
        return jnp.broadcast_to(self, index.shape)
    if index.size == 0:
        return jnp.zeros(index.shape, self.dtype)
    require_in_range(index, 0, self.shape[axis(self, dim)], "indices of gather")
    return self.at[places_along(self, dim, index)].get(mode="fill")


@register_operator("aten.take_along_dim.default")
def take_along_dim(self: jax.Array, indices: jax.Array, dim: int | None = None) -> jax.Array:
    """Return elements along an axis, one for each index; None flattens both tensors.

    Along an axis, negative indices count from the end.
    """
    if dim is None:
        return gather(self.reshape(-1), 0, indices.reshape(-1))
    place = axis(self, dim)
    others = [(*array.shape[:place], 1, *array.shape[place + 1 :]) for array in (self, indices)]
    shape = list(jnp.broadcast_shapes(*others))

    def expanded(array: jax.Array) -> jax.Array:
        return jnp.broadcast_to(array, (*shape[:place], array.shape[place], *shape[place + 1 :]))

    size = self.shape[place]
    return gather(expanded(self), place, expanded(jnp.where(indices < 0, indices + size, indices)))


def places_along(x: jax.Array, dim: int, index: jax.Array) -> tuple[jax.Array, ...]:
    """Return the indices of all axes for an index along one of them."""
    grids = list(jnp.indices(index.shape, sparse=True))
    place = axis(x, dim)
    grids[place] = jnp.where(index < 0, x.shape[place], index)
    return tuple(grids)


@register_operator("aten.index.Tensor")
def index(self: jax.Array, indices: Sequence[jax.Array | None]) -> jax.Array:
    """Index with integer arrays, as NumPy; None keeps an axis.

    A bool array works outside of ``jax.jit`` only, because the shape of the result depends on its values.
    """
    return self.at[_index(self, indices)].get(mode="fill")


@register_operator("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(
    self: jax.Array, indices: Sequence[jax.Array | None], values: jax.Array, accumulate: bool = False
) -> jax.Array:
    """Write values at the places that :func:`index` reads."""
    mask = indices[0] if len(indices) == 1 else None
    if mask is not None and mask.dtype == jnp.bool_ and values.size == 1 and not accumulate:
        # Unlike an index, a mask has a static shape.
        mask = mask.reshape(*mask.shape, *((1,) * (self.ndim - mask.ndim)))
        return masked_fill(self, mask, values.reshape(()))
    places = self.at[_index(self, indices)]
    values = values.astype(self.dtype)
    return places.add(values, mode="drop") if accumulate else places.set(values, mode="drop")


def _index(x: jax.Array, indices: Sequence[jax.Array | None]) -> tuple[Any, ...]:
    """Return an index for NumPy's rules; integers that are out of range stay so."""
    result: list[Any] = []
    place = 0
    for item in indices:
        if item is None:
            result.append(slice(None))
            place += 1
        elif item.dtype in (jnp.bool_, jnp.uint8):
            result.append(item.astype(bool))
            place += item.ndim
        else:
            size = x.shape[place]
            require_in_range(item, -size, size, f"indices of axis {place}")
            # Beyond the end from below is beyond the end, too.
            result.append(jnp.where(item < -size, size, item))
            place += 1
    return tuple(result)


@register_operator("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(self: jax.Array, mask: jax.Array, value: Operand) -> jax.Array:
    """Return ``value`` where the mask is True."""
    return jnp.where(mask, as_array(value, self.dtype), self)


@register_operator("aten.one_hot.default")
def one_hot(self: jax.Array, num_classes: int = -1) -> jax.Array:
    """Return 1 at the index of each element in a new last axis, else 0."""
    if num_classes < 0:
        raise ValueError("one_hot needs num_classes: without it the shape depends on the values")
    require_in_range(self, 0, num_classes, "indices of one_hot")
    return jax.nn.one_hot(self, num_classes, dtype=held("int64"))
