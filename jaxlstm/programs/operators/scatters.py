"""Elements written or accumulated at indices along an axis.

An index that is out of range raises an error when its value is known; under ``jax.jit`` all results are NaN
or the smallest number, as in :mod:`indexing`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import Operand, as_array, is_float
from jaxlstm.programs.operators.indexing import if_valid, places_along, require_in_range
from jaxlstm.programs.operators.registry import register_operator


@register_operator(
    "aten.scatter.src", "aten.scatter.value", "aten.scatter.reduce", "aten.scatter.value_reduce"
)
def scatter(
    self: Array,
    dim: int,
    index: Array,
    src: Array | None = None,
    value: Operand = 0,
    reduce: str | None = None,
) -> Array:
    """Write elements along an axis, one for each index; ``reduce`` is "add", "multiply" or None."""
    if reduce is not None:
        src = jnp.full(index.shape, as_array(value, self.dtype)) if src is None else src
        return scatter_reduce(self, dim, index, src, {"add": "sum", "multiply": "prod"}[reduce])
    flat, places, source, valid = _along(self, dim, index, src)
    update = as_array(value, self.dtype) if source is None else source.astype(self.dtype)
    return if_valid(flat.at[places].set(update, mode="drop"), valid).reshape(self.shape)


@register_operator("aten.scatter_add.default")
def scatter_add(self: Array, dim: int, index: Array, src: Array) -> Array:
    """Add elements along an axis, one for each index; equal indices accumulate."""
    return scatter_reduce(self, dim, index, src, "sum")


def _along(x: Array, dim: int, index: Array, src: Array | None) -> tuple[Array, tuple[Array, ...], Any, Any]:
    """Return ``x`` with at least one axis, NumPy's index of its elements, and their elements of ``src``.

    The last result tells whether all indices are in range.
    """
    if x.ndim == 0:
        x, index, src = x.reshape(1), index.reshape(-1), None if src is None else src.reshape(-1)
    elif src is not None:
        src = src[tuple(slice(size) for size in index.shape)]
    valid = require_in_range(index, 0, x.shape[axis(x, dim)], "indices of a scatter")
    return x, places_along(x, dim, index), src, valid


def _slices(x: Array, dim: int, index: Array, *, from_end: bool = False) -> tuple[Array, int, Any, Any]:
    """Return ``x`` with at least one axis, the axis ``dim``, NumPy's index of its slices, and if it is valid.

    With ``from_end``, negative indices count from the end. Otherwise they are out of range, as if too large.
    """
    flat, place = x.reshape(x.shape or (1,)), axis(x, dim)
    size = flat.shape[place]
    valid = require_in_range(index, -size if from_end else 0, size, "indices of slices")
    index = index if from_end else jnp.where(index < 0, size, index)
    return flat, place, (slice(None),) * place + (index.reshape(-1),), valid


def _as_slices(source: Array, flat: Array, place: int, index: Array) -> Array:
    return source.reshape((*flat.shape[:place], index.size, *flat.shape[place + 1 :]))


@register_operator("aten.index_copy.default")
def index_copy(self: Array, dim: int, index: Array, source: Array) -> Array:
    """Write slices to the slices of an axis at indices."""
    flat, place, slices, valid = _slices(self, dim, index)
    written = flat.at[slices].set(_as_slices(source, flat, place, index), mode="drop")
    return if_valid(written, valid).reshape(self.shape)


@register_operator("aten.index_add.default")
def index_add(self: Array, dim: int, index: Array, source: Array, alpha: Operand = 1) -> Array:
    """Add slices, times ``alpha``, to the slices of an axis at indices; equal indices accumulate."""
    if self.dtype == jnp.bool_:
        return index_add(self.astype(jnp.int32), dim, index, source, int(alpha)).astype(jnp.bool_)
    flat, place, slices, valid = _slices(self, dim, index)
    update = _as_slices(source, flat, place, index) * as_array(alpha, self.dtype)
    return if_valid(flat.at[slices].add(update, mode="drop"), valid).reshape(self.shape)


@register_operator("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def index_fill(self: Array, dim: int, index: Array, value: Operand) -> Array:
    """Write a number to the slices of an axis at indices; negative indices count from the end."""
    flat, _, slices, valid = _slices(self, dim, index, from_end=True)
    return if_valid(flat.at[slices].set(as_array(value, self.dtype), mode="drop"), valid).reshape(self.shape)


@register_operator("aten.scatter_reduce.two")
def scatter_reduce(
    self: Array, dim: int, index: Array, src: Array, reduce: str, include_self: bool = True
) -> Array:
    """Reduce all elements with the same index along an axis: "sum", "prod", "mean", "amax" or "amin".

    Without ``include_self``, an element of ``self`` stays only if it has no index.
    """
    if reduce not in _METHODS:
        raise ValueError(f"reduce must be one of {', '.join(_METHODS)}, got {reduce!r}")
    if self.dtype == jnp.bool_:
        numbers = (self.astype(jnp.int32), dim, index, src.astype(jnp.int32))
        return scatter_reduce(*numbers, reduce, include_self).astype(jnp.bool_)
    flat, places, source, valid = _along(self, dim, index, src)
    counts = jnp.zeros(flat.shape, jnp.int32).at[places].add(1, mode="drop")
    start = flat if include_self else jnp.where(counts > 0, _identity(reduce, flat.dtype), flat)
    if reduce == "prod":
        result = _multiplied(start, places, source)
    else:
        result = getattr(start.at[places], _METHODS[reduce])(source, mode="drop")
    if reduce == "mean":
        result = _divided(result, jnp.maximum(counts + int(include_self), 1))
    return if_valid(result, valid).reshape(self.shape)


_METHODS = {"sum": "add", "prod": "multiply", "mean": "add", "amax": "max", "amin": "min"}


def _identity(reduce: str, dtype: Any) -> Any:
    """Return the number that changes no result of a reduction."""
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    if is_float(dtype):
        return -jnp.inf if reduce == "amax" else jnp.inf
    return jnp.iinfo(dtype).min if reduce == "amax" else jnp.iinfo(dtype).max


def _divided(sums: Array, counts: Array) -> Array:
    return sums / counts.astype(sums.dtype) if is_float(sums) else sums // counts.astype(sums.dtype)


@jax.custom_jvp
def _multiplied(x: Array, places: Any, source: Array) -> Array:
    """Multiply elements by all sources with their index. JAX has no gradient of this."""
    return x.at[places].multiply(source, mode="drop")


@_multiplied.defjvp
def _multiplied_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, places, source = primals
    zeros = (x == 0).astype(jnp.int32).at[places].add(source == 0, mode="drop")
    product = _multiplied(jnp.where(x == 0, 1, x), places, jnp.where(source == 0, 1, source))

    def others(factor: Array, zeros: Array, product: Array) -> Array:
        """Return the product of the other factors, given the zeros among all and the product of the rest."""
        is_zero = factor == 0
        return jnp.where(zeros == is_zero, product / jnp.where(is_zero, 1, factor), 0)

    by_x = tangents[0] * others(x, zeros, product)
    by_source = tangents[2] * others(
        source, *(array.at[places].get(mode="fill") for array in (zeros, product))
    )
    return _multiplied(x, places, source), by_x.at[places].add(by_source, mode="drop")


@register_operator("aten.max_unpool2d.default", "aten.max_unpool3d.default")
def max_unpool(
    self: Array,
    indices: Array,
    output_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
) -> Array:
    """Write the elements of a pool to their places in arrays of zeros; torch needs no stride and padding."""
    batch_shape = self.shape[: self.ndim - len(output_size)]
    zeros = jnp.zeros((*batch_shape, math.prod(output_size)), self.dtype)
    result = _put(zeros, indices.reshape(*batch_shape, -1), self.reshape(*batch_shape, -1))
    return result.reshape(*batch_shape, *output_size)


@jax.custom_jvp
def _put(zeros: Array, index: Array, values: Array) -> Array:
    """Write values along the last axis, where equal indices have equal values, each with its gradient."""
    return scatter(zeros, -1, index, values)


@_put.defjvp
def _put_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    return _put(*primals), scatter_add(jnp.zeros_like(primals[0]), -1, primals[1], tangents[2])
