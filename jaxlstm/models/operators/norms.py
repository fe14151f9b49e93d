"""Norms over axes, accumulated at least in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.models.operators.axes import axes
from jaxlstm.models.operators.dtypes import Operand, held, promoted
from jaxlstm.models.operators.registry import register_operator
from jaxlstm.precision import gate_dtype


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


@register_operator("aten.dist.default")
def dist(self: jax.Array, other: jax.Array, p: Operand = 2) -> jax.Array:
    """Return the norm of the difference."""
    self, other = promoted(self, other)
    return norm(self - other, p)


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
