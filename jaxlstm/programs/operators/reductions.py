"""Sums, means and variances over axes, and running sums and extrema along an axis.

Sums of integers are int64; floats accumulate at least in float32.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import axes, axis
from jaxlstm.programs.operators.dtypes import Operand, as_float, converted, held, in_float32, sum_type
from jaxlstm.programs.operators.registry import register_family, register_operator
from jaxlstm.programs.operators.unary import power


@register_operator("aten.sum.default", "aten.sum.dim_IntList", layout="over")
def sum_(self: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    """Return the sum over axes; over all axes for None or an empty list."""
    result = sum_type(self, dtype)
    wide_dtype = gate_dtype(result) if jnp.issubdtype(result, jnp.inexact) else result
    return jnp.sum(converted(self, wide_dtype), axes(self, dim), keepdims=keepdim).astype(result)


@register_operator("aten.mean.default", "aten.mean.dim", layout="over")
def mean(self: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    """Return the mean over axes; over all axes for None or an empty list."""
    x = self if dtype is None else self.astype(held(dtype))
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"mean needs a floating-point tensor, got {x.dtype}")
    return jnp.mean(x.astype(gate_dtype(x.dtype)), axes(x, dim), keepdims=keepdim).astype(x.dtype)


@register_operator("aten.prod.default", "aten.prod.dim_int")
def prod(self: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    """Return the product over an axis, or over all."""
    return jnp.prod(converted(self, sum_type(self, dtype)), axes(self, dim), keepdims=keepdim)


def over_axes(function: Callable[..., Array], self: Array, dim: Any = None, keepdim: bool = False) -> Array:
    """Return a reduction over axes, or over all: a form of :func:`register_family`."""
    return function(self, axes(self, dim), keepdims=keepdim)


def _truth(function: Any, self: Array, dim: Any = None, keepdim: bool = False) -> Array:
    # torch keeps uint8, its dtype of masks before bool.
    result = over_axes(function, self, dim, keepdim)
    return result.astype(jnp.uint8) if self.dtype == jnp.uint8 else result


register_family(_truth, {"any": jnp.any, "all": jnp.all}, "default dim dims", layout="over")
register_family(_truth, {"_is_any_true": jnp.any, "_is_all_true": jnp.all}, layout="over")


@register_operator("aten.logsumexp.default", "aten.special_logsumexp.default", layout="over")
def logsumexp(self: Array, dim: Any, keepdim: bool = False) -> Array:
    """Return log(sum(exp(x))) over axes."""
    x = as_float(self)
    wide = x.astype(gate_dtype(x.dtype))
    return jax.nn.logsumexp(wide, axis=axes(x, dim), keepdims=keepdim).astype(x.dtype)


@register_operator("aten.nansum.default")
def nansum(self: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    """Return the sum over axes without NaN."""
    return sum_(jnp.where(jnp.isnan(self), 0, self), dim, keepdim, dtype)


@register_operator("aten.nanmean.default")
def nanmean(self: Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    """Return the mean over axes of the elements that are not NaN."""
    count = jnp.sum(~jnp.isnan(self), axes(self, dim), keepdims=keepdim)
    total = nansum(self, dim, keepdim, dtype)
    return total / count.astype(total.dtype)


@register_operator("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(self: Array, dim: Any = None) -> Array:
    """Return the number of elements that are not zero, over axes or all."""
    return jnp.sum(self != 0, axes(self, dim), dtype=held("int64"))


def _moment(
    kind: tuple[bool, bool],
    self: Array,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: Operand | None = None,
) -> Any:
    """Return the variance or, for ``kind[0]``, its root; for ``kind[1]`` with the mean."""
    is_root, with_mean = kind
    places = axes(self, dim)
    wide = self.astype(gate_dtype(self.dtype))
    deviation = wide - jnp.mean(wide, places, keepdims=True)
    removed = int(unbiased) if correction is None else correction
    freedom = max(math.prod(self.shape[place] for place in places) - removed, 0)
    squares = jnp.sum(jnp.square(deviation), places, keepdims=keepdim)
    variance = squares / jnp.asarray(freedom, squares.dtype)
    moment = (power(variance, 0.5) if is_root else variance).astype(self.dtype)
    return (moment, mean(self, dim, keepdim)) if with_mean else moment


_MOMENTS = {"var": (False, False), "std": (True, False), "var_mean": (False, True), "std_mean": (True, True)}
register_family(_moment, _MOMENTS, "default dim correction", layout="over")


def _running(function: Callable[..., Array], self: Array, dim: int, dtype: Any = None) -> Array:
    x = converted(self, sum_type(self, dtype))
    # On CPUs, XLA folds the padding of one element into the window of a sum, and gets wrong numbers. The
    # derivative of one element of a sum has such a padding.
    apart = jax.lax.optimization_barrier
    return apart(function(apart(x), axis(self, dim))) if self.ndim else x


register_family(_running, {"cumsum": jnp.cumsum, "cumprod": jnp.cumprod}, layout="along")


@register_operator("aten.logcumsumexp.default")
@in_float32
def logcumsumexp(self: Array, dim: int) -> Array:
    """Return the logarithm of the running sum of exp(x) along an axis."""
    return jax.lax.cumlogsumexp(self, axis(self, dim)) if self.ndim else self


def _running_extremum(running: Callable[..., Array], self: Array, dim: int) -> tuple[Array, Array]:
    """Return the running extremum along an axis and the index of the last element that equals it."""
    if self.ndim == 0:
        return self, jnp.zeros((), held("int64"))
    place = axis(self, dim)
    fixed = jax.lax.stop_gradient(self.astype(jnp.int8) if self.dtype == jnp.bool_ else self)
    # NaN wins, and the last one counts.
    is_extremum = (fixed == running(fixed, place)) | jnp.isnan(fixed)
    positions = jax.lax.broadcasted_iota(held("int64"), self.shape, place)
    indices = jax.lax.cummax(jnp.where(is_extremum, positions, 0), place)
    return jnp.take_along_axis(self, indices, place, mode="promise_in_bounds"), indices


register_family(_running_extremum, {"cummax": jax.lax.cummax, "cummin": jax.lax.cummin})


@register_operator("aten.histc.default")
def histc(self: Array, bins: int = 100, min: Operand = 0, max: Operand = 0) -> Array:
    """Return the numbers of elements in intervals of one size, by default between the extrema."""
    if self.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"self must be float32 or float64, got {self.dtype}, which holds no large numbers")
    low, high = (self.min(), self.max()) if min == max else (min, max)
    low, high = jnp.asarray(low, self.dtype), jnp.asarray(high, self.dtype)
    low, high = jnp.where(low == high, low - 1, low), jnp.where(low == high, high + 1, high)
    places = ((self - low) / (high - low) * bins).astype(int)
    is_inside = (self >= low) & (self <= high)
    numbers = jnp.zeros(bins, jnp.int32).at[jnp.minimum(places, bins - 1)].add(is_inside.astype(jnp.int32))
    return jnp.where(jnp.isfinite(low) & jnp.isfinite(high), numbers, jnp.nan).astype(self.dtype)


@register_operator("aten.diff.default")
def diff(
    self: Array, n: int = 1, dim: int = -1, prepend: Array | None = None, append: Array | None = None
) -> Array:
    """Return the n-th differences of neighbours along an axis; bools are compared."""
    place = axis(self, dim)
    parts = [part for part in (prepend, self, append) if part is not None]
    joined = jnp.concatenate(parts, place) if len(parts) > 1 else self
    return jnp.diff(joined, min(n, joined.shape[place]), place)
