"""Parts of an axis: slices and windows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.operators.axes import axis, slice_of
from jaxlstm.programs.operators.registry import Kwargs, register_operator, shares_elements


def set_part(base: jax.Array, view: jax.Array, dim: int, where: int | slice | np.ndarray) -> jax.Array:
    """Return ``base`` with a view written to a part of an axis."""
    return base.at[(slice(None),) * axis(base, dim) + (where,)].set(view)


def _select_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return set_part(base, view, kwargs["dim"], kwargs["index"])


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
    return set_part(base, view, dim, slice_of(base.shape[axis(base, dim)], *bounds))


@register_operator("aten.slice.Tensor", write_back=_slice_back)
def slice_(
    self: jax.Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    """Return a range of an axis; bounds beyond the axis are clamped."""
    place = axis(self, dim)
    return self[(slice(None),) * place + (slice_of(self.shape[place], start, end, step),)]


def _narrow_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    start = kwargs["start"] % max(base.shape[axis(base, kwargs["dim"])], 1)
    return set_part(base, view, kwargs["dim"], slice(start, start + kwargs["length"]))


@register_operator("aten.narrow.default", write_back=_narrow_back)
def narrow(self: jax.Array, dim: int, start: int, length: int) -> jax.Array:
    """Return ``length`` elements of an axis from ``start``."""
    place = axis(self, dim)
    size = self.shape[place]
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        raise IndexError(f"start {start} and length {length} leave axis {dim} of size {size}")
    return jax.lax.slice_in_dim(self, first, first + length, axis=place)


def _unbind_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return set_part(base, view, kwargs.get("dim", 0), index)


@register_operator("aten.unbind.int", write_back=_unbind_back)
def unbind(self: jax.Array, dim: int = 0) -> list[jax.Array]:
    """Return the slices of an axis, without the axis."""
    place = axis(self, dim)
    return [jax.lax.index_in_dim(self, i, place, keepdims=False) for i in range(self.shape[place])]


def _unfold_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    if kwargs["step"] < kwargs["size"]:
        raise shares_elements("windows that overlap")
    if base.ndim == 0:
        return view.reshape(base.shape)
    place = axis(base, kwargs["dimension"])
    starts = np.arange(0, base.shape[place] - kwargs["size"] + 1, kwargs["step"])
    windows = jnp.moveaxis(view, -1, place + 1)
    return set_part(base, windows, place, starts[:, None] + np.arange(kwargs["size"]))


@register_operator("aten.unfold.default", write_back=_unfold_back)
def unfold(self: jax.Array, dimension: int, size: int, step: int) -> jax.Array:
    """Return all windows of an axis, in a new last axis."""
    if self.ndim == 0:
        return self.reshape(1)[:size]
    place = axis(self, dimension)
    starts = np.arange(0, self.shape[place] - size + 1, step)
    windows = jnp.take(self, starts[:, None] + np.arange(size), axis=place)
    return jnp.moveaxis(windows, place + 1, -1)
