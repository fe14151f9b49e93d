"""Norms over axes, accumulated at least in float32, and distances and similarities of vectors."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import axes
from jaxlstm.programs.operators.dtypes import Operand, held, promoted
from jaxlstm.programs.operators.reductions import sum_
from jaxlstm.programs.operators.registry import register_operator
from jaxlstm.programs.operators.unary import magnitude, power


@register_operator(
    "aten.linalg_vector_norm.default",
    *(f"aten.norm.{kind}" for kind in ("ScalarOpt_dim", "Scalar", "ScalarOpt_dim_dtype")),
    schema_names={"p": "ord"},
    layout="over",
)
def linalg_vector_norm(
    self: Array, ord: Operand | None = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Array:
    """Return the norm of order ``ord``, by default 2, over axes."""
    x = self if dtype is None else self.astype(held(dtype))
    wide = x.astype(gate_dtype(x.dtype))
    return _norm(wide, 2 if ord is None else ord, axes(x, dim), keepdim).astype(x.dtype)


@register_operator("aten.dist.default")
def dist(self: Array, other: Array, p: Operand = 2) -> Array:
    """Return the norm of the difference."""
    self, other = promoted(self, other)
    return linalg_vector_norm(self - other, p)


@register_operator("aten.linalg_norm.default", "aten.linalg_norm.ord_str")
def linalg_norm(
    self: Array, ord: Any = None, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Array:
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
    self: Array, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, dtype: Any = None
) -> Array:
    """Return the norm of matrices: "fro", "nuc", or 1, 2, infinity and their negatives."""
    x = self if dtype is None else self.astype(held(dtype))
    rows, columns = axes(x, dim)
    wide = jnp.moveaxis(x.astype(gate_dtype(x.dtype)), (rows, columns), (-2, -1))
    y = _matrix_norm(wide, ord).astype(x.dtype)
    return jnp.expand_dims(y, (rows, columns)) if keepdim else y


def _matrix_norm(x: Array, order: Any) -> Array:
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


def _norm(x: Array, order: float, places: tuple[int, ...], keepdim: bool) -> Array:
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
        return power(jnp.sum(jnp.square(x), places, keepdims=keepdim), 0.5)
    return power(jnp.sum(power(size, order), places, keepdims=keepdim), 1 / order)


@register_operator("aten.cosine_similarity.default")
def cosine_similarity(x1: Array, x2: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    """Return the cosine of the angle of vectors along an axis; norms are at least ``eps``."""
    first, second = (
        array / _bounded_norm(array, dim, eps) for array in jnp.broadcast_arrays(*promoted(x1, x2))
    )
    return sum_(first * second, dim)


def _bounded_norm(x: Array, dim: int, eps: float) -> Array:
    norm = linalg_vector_norm(x, 2, dim, keepdim=True)
    # In torch the bound does not change the gradient.
    return norm + jax.lax.stop_gradient(jnp.maximum(norm, eps) - norm)


@register_operator("aten.pairwise_distance.default")
def pairwise_distance(x1: Array, x2: Array, p: float = 2, eps: float = 1e-6, keepdim: bool = False) -> Array:
    """Return the p-norm of ``x1 - x2 + eps`` over the last axis."""
    first, second = promoted(x1, x2)
    return linalg_vector_norm(first - second + eps, p, -1, keepdim)


@register_operator("aten.cdist.default")
def cdist(x1: Array, x2: Array, p: float = 2, compute_mode: int | None = None) -> Array:
    """Return the p-norm of the difference of each row of ``x1`` (..., P, M) and of ``x2`` (..., R, M)."""
    if p < 0:
        raise ValueError(f"p must not be negative, got {p}")
    difference = x1[..., :, None, :] - x2[..., None, :, :]
    if difference.shape[-1] == 0:
        return jnp.zeros(difference.shape[:-1], difference.dtype)
    return linalg_vector_norm(difference, p, -1)
