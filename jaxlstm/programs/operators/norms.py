"""Norms over axes, accumulated at least in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import axes
from jaxlstm.programs.operators.dtypes import Operand, held, promoted
from jaxlstm.programs.operators.registry import register_operator
from jaxlstm.programs.operators.unary import magnitude


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


@register_operator("aten.linalg_norm.default", "aten.linalg_norm.ord_str")
def linalg_norm(
    self: jax.Array, ord: Any = None, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> jax.Array:
    """Return the norm of vectors, or of matrices if two axes or a matrix are given with an order."""
    if ord is None:
        return linalg_vector_norm(self, 2, dim, keepdim, dtype)
    places = axes(self, dim)
    if len(places) == 2:
        return linalg_matrix_norm(self, ord, places, keepdim, dtype)
    if len(places) > 2 or isinstance(ord, str):
        raise ValueError(f"a norm of order {ord!r} needs one or two axes, got {len(places)}")
    return linalg_vector_norm(self, ord, places, keepdim, dtype)


@register_operator("aten.linalg_matrix_norm.default", "aten.linalg_matrix_norm.str_ord")
def linalg_matrix_norm(
    self: jax.Array, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, dtype: Any = None
) -> jax.Array:
    """Return the norm of matrices: "fro", "nuc", or 1, 2, infinity and their negatives."""
    x = self if dtype is None else self.astype(held(dtype))
    rows, columns = axes(x, dim)
    wide = jnp.moveaxis(x.astype(gate_dtype(x.dtype)), (rows, columns), (-2, -1))
    y = _matrix_norm(wide, ord).astype(x.dtype)
    return jnp.expand_dims(y, (rows, columns)) if keepdim else y


def _matrix_norm(x: jax.Array, order: Any) -> jax.Array:
    if order == "fro":
        return _norm(x, 2, (-2, -1), keepdim=False)
    if order in (1, -1, float("inf"), float("-inf")):
        sizes = jnp.sum(magnitude(x), -2 if abs(order) == 1 else -1)
    elif order in ("nuc", 2, -2):
        sizes = jnp.linalg.svd(x, compute_uv=False)
    else:
        raise ValueError(
            f'the order of a matrix norm must be "fro", "nuc", 1, 2, inf or -these, got {order!r}'
        )
    if order == "nuc":
        return jnp.sum(sizes, -1)
    return jnp.max(sizes, -1) if order > 0 else jnp.min(sizes, -1)


def _norm(x: jax.Array, order: float, places: tuple[int, ...], keepdim: bool) -> jax.Array:
    size = magnitude(x)
    if order == float("inf"):
        return jnp.max(size, places, keepdims=keepdim)
    if order == float("-inf"):
        return jnp.min(size, places, keepdims=keepdim)
    if order == 0:
        return jnp.sum(x != 0, places, keepdims=keepdim).astype(x.dtype)
    if order == 1:
        return jnp.sum(size, places, keepdims=keepdim)
    if order == 2:
        return _power(jnp.sum(jnp.square(x), places, keepdims=keepdim), 0.5)
    return _power(jnp.sum(_power(size, order), places, keepdims=keepdim), 1 / order)


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """Return a power of numbers that are not negative, with torch's gradient 0 at 0."""
    is_zero = x == 0
    safe = jnp.where(is_zero, 1, x)
    powers = jnp.sqrt(safe) if exponent == 0.5 else safe**exponent
    return jnp.where(is_zero, 0 if exponent > 0 else jnp.inf, powers)
