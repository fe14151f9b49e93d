"""Diagonals and triangles of matrices, taken and written."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.programs.operators.axes import axis, axis_of
from jaxlstm.programs.operators.dtypes import Operand, as_array, held, promoted, sum_type
from jaxlstm.programs.operators.registry import register_family, register_operator
from jaxlstm.programs.operators.unary import of_tensor


@register_operator("aten.diagonal_scatter.default")
def diagonal_scatter(self: Array, src: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    """Write a diagonal of each matrix in the axes ``dim1`` and ``dim2``."""
    dims = (axis(self, dim1), axis(self, dim2))
    places = (..., *_places(offset, src.shape[-1]))
    matrices = jnp.moveaxis(self, dims, (-2, -1)).at[places].set(src.astype(self.dtype))
    return jnp.moveaxis(matrices, (-2, -1), dims)


def _places(offset: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of a diagonal."""
    steps = np.arange(count)
    return steps + max(-offset, 0), steps + max(offset, 0)


@register_operator(
    "aten.diagonal.default", write_back=lambda base, view, _, kwargs: diagonal_scatter(base, view, **kwargs)
)
def diagonal(self: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    """Return a diagonal of each matrix in the axes ``dim1`` and ``dim2``, in a new last axis."""
    return jnp.diagonal(self, offset, axis(self, dim1), axis(self, dim2))


@register_operator("aten.diag_embed.default")
def diag_embed(self: Array, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Array:
    """Return matrices in the axes ``dim1`` and ``dim2`` with the last axis on a diagonal, zeros elsewhere."""
    count, ndim = self.shape[-1], self.ndim + 1
    size = count + abs(offset)
    matrices = jnp.zeros((*self.shape[:-1], size, size), self.dtype)
    filled = matrices.at[(..., *_places(offset, count))].set(self)
    return jnp.moveaxis(filled, (-2, -1), (axis_of(ndim, dim1), axis_of(ndim, dim2)))


@register_operator("aten.diag.default")
def diag(self: Array, diagonal: int = 0) -> Array:
    """Return the diagonal of a matrix, or the matrix with a vector on its diagonal."""
    return diag_embed(self, diagonal) if self.ndim == 1 else jnp.diagonal(self, diagonal)


@register_operator("aten.diagflat.default")
def diagflat(self: Array, offset: int = 0) -> Array:
    """Return the matrix with all elements on a diagonal."""
    return diag_embed(self.reshape(-1), offset)


@register_operator("aten.block_diag.default")
def block_diag(tensors: Sequence[Array]) -> Array:
    """Return the matrix with matrices along its diagonal, zeros elsewhere; a vector is one row."""
    return jax.scipy.linalg.block_diag(*promoted(*tensors))


register_family(of_tensor, {"trace": lambda x: jnp.trace(x.astype(sum_type(x)))})


def _triangle(function: Any, self: Array, diagonal: int = 0) -> Array:
    """Return a triangle of each matrix, zeros elsewhere."""
    return function(self, diagonal)


register_family(_triangle, {"tril": jnp.tril, "triu": jnp.triu})


def _triangle_indices(function: Any, row: int, col: int, offset: int = 0, dtype: Any = None) -> Array:
    """Return the rows and columns of a triangle of a matrix."""
    return jnp.asarray(np.stack(function(row, offset, col)).astype(held(dtype or "int64")))


register_family(_triangle_indices, {"tril_indices": np.tril_indices, "triu_indices": np.triu_indices})


@register_operator("aten.fill_diagonal.default")
def fill_diagonal(self: Array, fill_value: Operand, wrap: bool = False) -> Array:
    """Write a number to the diagonal. ``wrap`` starts it again below a tall matrix, after one row."""
    columns = self.shape[-1]
    step = sum(math.prod(self.shape[place:]) for place in range(1, self.ndim + 1))
    end = columns**self.ndim if not wrap or self.ndim > 2 else self.size
    flat = self.reshape(-1).at[: min(end, self.size) : step].set(as_array(fill_value, self.dtype))
    return flat.reshape(self.shape)
