"""Sums, means and variances over axes. Sums of integers are int64; floats accumulate at least in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.models.operators.axes import axes, axis
from jaxlstm.models.operators.dtypes import Operand, as_float, held, sum_type
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


@register_operator("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_(self: jax.Array, dim: Any = None, keepdim: bool = False) -> jax.Array:
    """Return True where any element is not zero."""
    return jnp.any(self, axes(self, dim), keepdims=keepdim)


@register_operator("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_(self: jax.Array, dim: Any = None, keepdim: bool = False) -> jax.Array:
    """Return True where all elements are not zero."""
    return jnp.all(self, axes(self, dim), keepdims=keepdim)


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
