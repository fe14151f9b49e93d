"""Largest and smallest elements, their indices, and elements in order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.programs.operators.axes import axes, axis
from jaxlstm.programs.operators.dtypes import held
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.amax.default")
def amax(self: jax.Array, dim: Any = (), keepdim: bool = False) -> jax.Array:
    """Return the largest element over axes. Equal elements share the gradient, as in torch."""
    return jnp.max(self, axes(self, dim), keepdims=keepdim)


@register_operator("aten.amin.default")
def amin(self: jax.Array, dim: Any = (), keepdim: bool = False) -> jax.Array:
    """Return the smallest element over axes."""
    return jnp.min(self, axes(self, dim), keepdims=keepdim)


@register_operator("aten.aminmax.default")
def aminmax(self: jax.Array, dim: int | None = None, keepdim: bool = False) -> tuple[jax.Array, jax.Array]:
    """Return the smallest and the largest element along an axis, or of all."""
    return amin(self, dim, keepdim), amax(self, dim, keepdim)


@register_operator("aten.max.default")
def max_(self: jax.Array) -> jax.Array:
    """Return the largest element."""
    return jnp.max(self)


@register_operator("aten.min.default")
def min_(self: jax.Array) -> jax.Array:
    """Return the smallest element."""
    return jnp.min(self)


@register_operator("aten.max.dim")
def max_dim(self: jax.Array, dim: int, keepdim: bool = False) -> tuple[jax.Array, jax.Array]:
    """Return the largest elements along an axis and the indices of the first of them."""
    return _selected(self, argmax(self, dim, keepdim=True), dim, keepdim)


@register_operator("aten.min.dim")
def min_dim(self: jax.Array, dim: int, keepdim: bool = False) -> tuple[jax.Array, jax.Array]:
    """Return the smallest elements along an axis and the indices of the first of them."""
    return _selected(self, argmin(self, dim, keepdim=True), dim, keepdim)


def _selected(x: jax.Array, indices: jax.Array, dim: int, keepdim: bool) -> tuple[jax.Array, jax.Array]:
    """Return the elements at indices, so that only the selected element has a gradient."""
    if x.ndim == 0:
        return x, indices
    place = axis(x, dim)
    values = jnp.take_along_axis(x, indices, place, mode="promise_in_bounds")
    return (values, indices) if keepdim else (values.squeeze(place), indices.squeeze(place))


@register_operator("aten.argmax.default")
def argmax(self: jax.Array, dim: int | None = None, keepdim: bool = False) -> jax.Array:
    """Return the index of the largest element, the first of equal ones; NaN counts as the largest."""
    return _arg(jnp.argmax, self, dim, keepdim)


@register_operator("aten.argmin.default")
def argmin(self: jax.Array, dim: int | None = None, keepdim: bool = False) -> jax.Array:
    """Return the index of the smallest element, the first of equal ones; NaN counts as the smallest."""
    return _arg(jnp.argmin, self, dim, keepdim)


def _arg(function: Any, x: jax.Array, dim: int | None, keepdim: bool) -> jax.Array:
    place = None if dim is None or x.ndim == 0 else axis(x, dim)
    return function(x, place, keepdims=keepdim).astype(held("int64"))


@register_operator("aten.topk.default")
def topk(
    self: jax.Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Return the k largest or smallest elements along an axis, in order, and their indices."""
    if self.ndim == 0:
        return self, jnp.zeros((), held("int64"))
    order = jnp.argsort(self, axis(self, dim), descending=largest)
    indices = jax.lax.slice_in_dim(order, 0, k, axis=axis(self, dim))
    return jnp.take_along_axis(self, indices, axis(self, dim)), indices.astype(held("int64"))


@register_operator("aten.sort.default", "aten.sort.stable")
def sort(
    self: jax.Array, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the elements in order along an axis, and their indices."""
    return topk(self, self.shape[axis(self, dim)] if self.ndim else 1, dim, descending)


@register_operator("aten.argsort.default", "aten.argsort.stable")
def argsort(self: jax.Array, dim: int = -1, descending: bool = False, stable: bool = False) -> jax.Array:
    """Return the indices of the elements in order along an axis; equal elements keep their order."""
    return sort(self, dim, descending)[1]
