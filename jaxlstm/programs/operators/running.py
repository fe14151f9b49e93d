"""Running sums, products and extrema along an axis, and differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import held, in_float32, sum_type
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.cumsum.default")
def cumsum(self: jax.Array, dim: int, dtype: Any = None) -> jax.Array:
    """Return the running sum along an axis."""
    result = sum_type(self, dtype)
    return jnp.cumsum(self.astype(result), axis(self, dim)) if self.ndim else self.astype(result)


@register_operator("aten.cumprod.default")
def cumprod(self: jax.Array, dim: int, dtype: Any = None) -> jax.Array:
    """Return the running product along an axis."""
    result = sum_type(self, dtype)
    return jnp.cumprod(self.astype(result), axis(self, dim)) if self.ndim else self.astype(result)


@register_operator("aten.logcumsumexp.default")
@in_float32
def logcumsumexp(self: jax.Array, dim: int) -> jax.Array:
    """Return the logarithm of the running sum of exp(x) along an axis."""
    return jax.lax.cumlogsumexp(self, axis(self, dim)) if self.ndim else self


@register_operator("aten.cummax.default")
def cummax(self: jax.Array, dim: int) -> tuple[jax.Array, jax.Array]:
    """Return the running maximum along an axis and the index of the last element that equals it."""
    return _running_extremum(jax.lax.cummax, self, dim)


@register_operator("aten.cummin.default")
def cummin(self: jax.Array, dim: int) -> tuple[jax.Array, jax.Array]:
    """Return the running minimum along an axis and the index of the last element that equals it."""
    return _running_extremum(jax.lax.cummin, self, dim)


def _running_extremum(
    running: Callable[..., jax.Array], x: jax.Array, dim: int
) -> tuple[jax.Array, jax.Array]:
    if x.ndim == 0:
        return x, jnp.zeros((), held("int64"))
    place = axis(x, dim)
    fixed = jax.lax.stop_gradient(x.astype(jnp.int8) if x.dtype == jnp.bool_ else x)
    # NaN wins, and the last one counts.
    is_extremum = (fixed == running(fixed, place)) | jnp.isnan(fixed)
    own = jax.lax.broadcasted_iota(held("int64"), x.shape, place)
    indices = jax.lax.cummax(jnp.where(is_extremum, own, 0), place)
    return jnp.take_along_axis(x, indices, place, mode="promise_in_bounds"), indices


@register_operator("aten.diff.default")
def diff(
    self: jax.Array,
    n: int = 1,
    dim: int = -1,
    prepend: jax.Array | None = None,
    append: jax.Array | None = None,
) -> jax.Array:
    """Return the n-th differences of neighbours along an axis; bools are compared."""
    place = axis(self, dim)
    parts = [part for part in (prepend, self, append) if part is not None]
    joined = jnp.concatenate(parts, place) if len(parts) > 1 else self
    return jnp.diff(joined, min(n, joined.shape[place]), place)
