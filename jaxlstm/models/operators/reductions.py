"""Reductions over axes. Sums of integers are int64, means and variances accumulate at least in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.models.operators.axes import axes, axis
from jaxlstm.models.operators.dtypes import Operand, as_float, held, promoted, sum_type
from jaxlstm.models.operators.registry import register_operator
from jaxlstm.precision import gate_dtype


@register_operator("aten.sum.default", "aten.sum.dim_IntList")
def sum_(self: jax.Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    """Return the sum over axes; over all axes for None or an empty list."""
    result = sum_type(self, dtype)
    wide = gate_dtype(result) if jnp.issubdtype(result, jnp.inexact) else result
    return jnp.sum(self.astype(wide), axes(self, dim), keepdims=keepdim).astype(result)


@register_operator("aten.mean.default", "aten.mean.dim")
def mean(self: jax.Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    """Return the mean over axes; over all axes for None or an empty list."""
    x = self if dtype is None else self.astype(held(dtype))
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"mean needs a floating-point tensor, got {x.dtype}")
    return jnp.mean(x.astype(gate_dtype(x.dtype)), axes(x, dim), keepdims=keepdim).astype(x.dtype)


@register_operator("aten.prod.default", "aten.prod.dim_int")
def prod(self: jax.Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    """Return the product over an axis, or over all."""
    return jnp.prod(self.astype(sum_type(self, dtype)), axes(self, dim), keepdims=keepdim)


@register_operator("aten.amax.default")
def amax(self: jax.Array, dim: Any = (), keepdim: bool = False) -> jax.Array:
    """Return the largest element over axes. Equal elements share the gradient, as in torch."""
    return jnp.max(self, axes(self, dim), keepdims=keepdim)


@register_operator("aten.amin.default")
def amin(self: jax.Array, dim: Any = (), keepdim: bool = False) -> jax.Array:
    """Return the smallest element over axes."""
    return jnp.min(self, axes(self, dim), keepdims=keepdim)


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


@register_operator("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_(self: jax.Array, dim: Any = None, keepdim: bool = False) -> jax.Array:
    """Return True where any element is not zero."""
    return jnp.any(self, axes(self, dim), keepdims=keepdim)


@register_operator("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_(self: jax.Array, dim: Any = None, keepdim: bool = False) -> jax.Array:
    """Return True where all elements are not zero."""
    return jnp.all(self, axes(self, dim), keepdims=keepdim)


@register_operator("aten.var.default", "aten.var.dim", "aten.var.correction")
def var(
    self: jax.Array,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: Operand | None = None,
) -> jax.Array:
    """Return the variance: squared deviations over (n - correction), by default n - 1."""
    removed: Any = int(unbiased) if correction is None else correction
    places = axes(self, dim)
    x = self.astype(gate_dtype(self.dtype))
    deviation = x - jnp.mean(x, places, keepdims=True)
    count = 1
    for place in places:
        count *= x.shape[place]
    freedom = max(count - removed, 0)
    squares = jnp.sum(jnp.square(deviation), places, keepdims=keepdim)
    return (squares / jnp.asarray(freedom, squares.dtype)).astype(self.dtype)


@register_operator("aten.std.default", "aten.std.dim", "aten.std.correction")
def std(
    self: jax.Array,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: Operand | None = None,
) -> jax.Array:
    """Return the square root of the variance."""
    wide = self.astype(gate_dtype(self.dtype))
    return jnp.sqrt(var(wide, dim, unbiased, keepdim, correction)).astype(self.dtype)


@register_operator("aten.var_mean.correction", "aten.var_mean.default", "aten.var_mean.dim")
def var_mean(
    self: jax.Array,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: Operand | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the variance and the mean."""
    return var(self, dim, unbiased, keepdim, correction), mean(self, dim, keepdim)


@register_operator("aten.logsumexp.default")
def logsumexp(self: jax.Array, dim: Any, keepdim: bool = False) -> jax.Array:
    """Return log(sum(exp(x))) over axes."""
    x = as_float(self)
    wide = x.astype(gate_dtype(x.dtype))
    return jax.nn.logsumexp(wide, axis=axes(x, dim), keepdims=keepdim).astype(x.dtype)


@register_operator("aten.cumsum.default")
def cumsum(self: jax.Array, dim: int, dtype: Any = None) -> jax.Array:
    """Return the running sum along an axis."""
    result = sum_type(self, dtype)
    return jnp.cumsum(self.astype(result), axis(self, dim)) if self.ndim else self.astype(result)


@register_operator("aten.linalg_vector_norm.default")
def linalg_vector_norm(
    self: jax.Array, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> jax.Array:
    """Return the norm of order ``ord`` over axes."""
    x = self if dtype is None else self.astype(held(dtype))
    wide = x.astype(gate_dtype(x.dtype))
    return _norm(wide, ord, axes(x, dim), keepdim).astype(x.dtype)


@register_operator("aten.norm.ScalarOpt_dim", "aten.norm.Scalar", "aten.norm.ScalarOpt_dim_dtype")
def norm(
    self: jax.Array, p: Operand | None = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> jax.Array:
    """Return the norm of order ``p`` over axes."""
    return linalg_vector_norm(self, 2 if p is None else p, dim, keepdim, dtype)


def _norm(x: jax.Array, order: float, places: tuple[int, ...], keepdim: bool) -> jax.Array:
    size = jnp.abs(x)
    if order == float("inf"):
        return jnp.max(size, places, keepdims=keepdim)
    if order == float("-inf"):
        return jnp.min(size, places, keepdims=keepdim)
    if order == 0:
        return jnp.sum(x != 0, places, keepdims=keepdim).astype(x.dtype)
    if order == 1:
        return jnp.sum(size, places, keepdims=keepdim)
    if order == 2:
        return _root(jnp.sum(jnp.square(x), places, keepdims=keepdim))
    return jnp.sum(size**order, places, keepdims=keepdim) ** (1 / order)


def _root(squares: jax.Array) -> jax.Array:
    """Return the square root, with torch's gradient 0 at 0."""
    is_zero = squares == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))


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


@register_operator("aten.dist.default")
def dist(self: jax.Array, other: jax.Array, p: Operand = 2) -> jax.Array:
    """Return the norm of the difference."""
    self, other = promoted(self, other)
    return norm(self - other, p)
