"""Diagonals and triangles of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.operators.axes import axis, axis_of
from jaxlstm.programs.operators.dtypes import held, promoted, sum_type
from jaxlstm.programs.operators.registry import Kwargs, register_operator


def _diagonal_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return set_diagonal(base, view, **kwargs)


def set_diagonal(x: jax.Array, new: jax.Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> jax.Array:
    """Return ``x`` with another diagonal of each matrix in the axes ``dim1`` and ``dim2``."""
    dims = (axis(x, dim1), axis(x, dim2))
    matrices = jnp.moveaxis(x, dims, (-2, -1))
    written = matrices.at[(..., *_places(offset, new.shape[-1]))].set(new)
    return jnp.moveaxis(written, (-2, -1), dims)


def _places(offset: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of a diagonal."""
    steps = np.arange(count)
    return steps + max(-offset, 0), steps + max(offset, 0)


@register_operator("aten.diagonal.default", write_back=_diagonal_back)
def diagonal(self: jax.Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> jax.Array:
    """Return a diagonal of each matrix in the axes ``dim1`` and ``dim2``, in a new last axis."""
    return jnp.diagonal(self, offset, axis(self, dim1), axis(self, dim2))


@register_operator("aten.diag_embed.default")
def diag_embed(self: jax.Array, offset: int = 0, dim1: int = -2, dim2: int = -1) -> jax.Array:
    """Return matrices in the axes ``dim1`` and ``dim2`` with the last axis on a diagonal, zeros elsewhere."""
    count, ndim = self.shape[-1], self.ndim + 1
    size = count + abs(offset)
    matrices = jnp.zeros((*self.shape[:-1], size, size), self.dtype)
    filled = matrices.at[(..., *_places(offset, count))].set(self)
    return jnp.moveaxis(filled, (-2, -1), (axis_of(ndim, dim1), axis_of(ndim, dim2)))


@register_operator("aten.diag.default")
def diag(self: jax.Array, diagonal: int = 0) -> jax.Array:
    """Return the diagonal of a matrix, or the matrix with a vector on its diagonal."""
    return diag_embed(self, diagonal) if self.ndim == 1 else jnp.diagonal(self, diagonal)


@register_operator("aten.diagflat.default")
def diagflat(self: jax.Array, offset: int = 0) -> jax.Array:
    """Return the matrix with all elements on a diagonal."""
    return diag_embed(self.reshape(-1), offset)


@register_operator("aten.block_diag.default")
def block_diag(tensors: Sequence[jax.Array]) -> jax.Array:
    """Return the matrix with matrices along its diagonal, zeros elsewhere; a vector is one row."""
    return jax.scipy.linalg.block_diag(*promoted(*tensors))


@register_operator("aten.trace.default")
def trace(self: jax.Array) -> jax.Array:
    """Return the sum of the diagonal of a matrix."""
    return jnp.trace(self.astype(sum_type(self)))


@register_operator("aten.tril.default")
def tril(self: jax.Array, diagonal: int = 0) -> jax.Array:
    """Return the lower triangle of each matrix, zeros elsewhere."""
    return jnp.tril(self, diagonal)


@register_operator("aten.triu.default")
def triu(self: jax.Array, diagonal: int = 0) -> jax.Array:
    """Return the upper triangle of each matrix, zeros elsewhere."""
    return jnp.triu(self, diagonal)


@register_operator("aten.tril_indices.default")
def tril_indices(row: int, col: int, offset: int = 0, dtype: Any = None) -> jax.Array:
    """Return the rows and columns of the lower triangle of a matrix."""
    return jnp.asarray(np.stack(np.tril_indices(row, offset, col)).astype(held(dtype or "int64")))


@register_operator("aten.triu_indices.default")
def triu_indices(row: int, col: int, offset: int = 0, dtype: Any = None) -> jax.Array:
    """Return the rows and columns of the upper triangle of a matrix."""
    return jnp.asarray(np.stack(np.triu_indices(row, offset, col)).astype(held(dtype or "int64")))
