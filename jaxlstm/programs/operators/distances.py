"""Distances and similarities of vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlstm.programs.operators.dtypes import promoted
from jaxlstm.programs.operators.norms import linalg_vector_norm
from jaxlstm.programs.operators.reductions import sum_
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.cosine_similarity.default")
def cosine_similarity(x1: jax.Array, x2: jax.Array, dim: int = 1, eps: float = 1e-8) -> jax.Array:
    """Return the cosine of the angle of vectors along an axis; norms are at least ``eps``."""
    first, second = (array / _bounded_norm(array, dim, eps) for array in broadcast(x1, x2))
    return sum_(first * second, dim)


def _bounded_norm(x: jax.Array, dim: int, eps: float) -> jax.Array:
    norm = linalg_vector_norm(x, 2, dim, keepdim=True)
    # In torch the bound does not change the gradient.
    return norm + jax.lax.stop_gradient(jnp.maximum(norm, eps) - norm)


def broadcast(first: jax.Array, second: jax.Array) -> list[jax.Array]:
    """Return two arrays in their common shape and dtype."""
    return jnp.broadcast_arrays(*promoted(first, second))


@register_operator("aten.pairwise_distance.default")
def pairwise_distance(
    x1: jax.Array, x2: jax.Array, p: float = 2, eps: float = 1e-6, keepdim: bool = False
) -> jax.Array:
    """Return the p-norm of ``x1 - x2 + eps`` over the last axis."""
    first, second = promoted(x1, x2)
    return linalg_vector_norm(first - second + eps, p, -1, keepdim)


@register_operator("aten.cdist.default")
def cdist(x1: jax.Array, x2: jax.Array, p: float = 2, compute_mode: int | None = None) -> jax.Array:
    """Return the p-norm of the difference of each row of ``x1`` (..., P, M) and of ``x2`` (..., R, M)."""
    if p < 0:
        raise ValueError(f"p must not be negative, got {p}")
    difference = x1[..., :, None, :] - x2[..., None, :, :]
    if difference.shape[-1] == 0:
        return jnp.zeros(difference.shape[:-1], difference.dtype)
    return linalg_vector_norm(difference, p, -1)
