"""Sums, means and variances over axes. Sums of integers are int64; floats accumulate at least in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import axes
from jaxlstm.programs.operators.dtypes import Operand, as_float, held, sum_type
from jaxlstm.programs.operators.registry import register_operator


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


@register_operator("aten.nansum.default")
def nansum(self: jax.Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    """Return the sum over axes without NaN."""
    return sum_(jnp.where(jnp.isnan(self), 0, self), dim, keepdim, dtype)


@register_operator("aten.nanmean.default")
def nanmean(self: jax.Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    """Return the mean over axes of the elements that are not NaN."""
    count = jnp.sum(~jnp.isnan(self), axes(self, dim), keepdims=keepdim)
    total = nansum(self, dim, keepdim, dtype)
    return total / count.astype(total.dtype)


@register_operator("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(self: jax.Array, dim: Any = None) -> jax.Array:
    """Return the number of elements that are not zero, over axes or all."""
    return jnp.sum(self != 0, axes(self, dim), dtype=held("int64"))


def _register_moment(name: str, moment: Callable[..., Any]) -> None:
    @register_operator(f"aten.{name}.default", f"aten.{name}.dim", f"aten.{name}.correction")
    def operator(
        self: jax.Array,
        dim: Any = None,
        unbiased: bool = True,
        keepdim: bool = False,
        correction: Operand | None = None,
    ) -> Any:
        removed = int(unbiased) if correction is None else correction
        return moment(self, dim, removed, keepdim)


def _variance(x: jax.Array, dim: Any, removed: Any, keepdim: bool) -> jax.Array:
    """Return the squared deviations over (n - removed)."""
    places = axes(x, dim)
    wide = x.astype(gate_dtype(x.dtype))
    deviation = wide - jnp.mean(wide, places, keepdims=True)
    freedom = max(math.prod(x.shape[place] for place in places) - removed, 0)
    squares = jnp.sum(jnp.square(deviation), places, keepdims=keepdim)
    return (squares / jnp.asarray(freedom, squares.dtype)).astype(x.dtype)


def _deviation(x: jax.Array, *arguments: Any) -> jax.Array:
    """Return the square root of the variance."""
    return jnp.sqrt(_variance(x.astype(gate_dtype(x.dtype)), *arguments)).astype(x.dtype)


def _with_mean(moment: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def both(x: jax.Array, dim: Any, removed: Any, keepdim: bool) -> tuple[jax.Array, jax.Array]:
        return moment(x, dim, removed, keepdim), mean(x, dim, keepdim)

    return both


for _name, _moment in {"var": _variance, "std": _deviation}.items():
    _register_moment(_name, _moment)
    _register_moment(f"{_name}_mean", _with_mean(_moment))
