"""Largest and smallest elements, elements in order, and the places of values in sorted sequences."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.programs.operators.arithmetic import lerp
from jaxlstm.programs.operators.axes import axes, axis
from jaxlstm.programs.operators.dtypes import Operand, held, is_float, promoted
from jaxlstm.programs.operators.reductions import over_axes
from jaxlstm.programs.operators.registry import register_family, register_operator
from jaxlstm.programs.operators.unary import of_tensor


@partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def _extrema(smallest: bool, x: Array, places: tuple[int, ...]) -> Array:
    """Return the extrema over axes, which keep size 1. Equal elements share the gradient, as in torch."""
    return (jnp.min if smallest else jnp.max)(x, places, keepdims=True)


@_extrema.defjvp
def _extrema_jvp(smallest: bool, places: tuple[int, ...], primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (change,) = primals, tangents
    values = _extrema(smallest, x, places)
    # XLA may compute x again, with other rounding, so that no element equals the extremum.
    order = (*(k for k in range(x.ndim) if k not in places), *places)
    ordered = x.transpose(order)
    rows = ordered.reshape(*ordered.shape[: x.ndim - len(places)], -1) if x.size else ordered
    first = (jnp.argmin if smallest else jnp.argmax)(rows, -1, keepdims=True)
    is_first = (jnp.arange(rows.shape[-1]) == first).reshape(ordered.shape).transpose(np.argsort(order))
    mask = (x == values) | is_first
    shared = jnp.where(mask, change, 0).sum(places, keepdims=True)
    return values, shared / mask.sum(places, keepdims=True).astype(shared.dtype)


def _over(smallest: bool, x: Array, places: tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    places = tuple(range(x.ndim)) if places is None else places
    values = _extrema(smallest, x, places)
    return values if keepdims else values.squeeze(places)


_largest, _smallest = partial(_over, False), partial(_over, True)
register_family(over_axes, {"amax": _largest, "amin": _smallest}, layout="over")
register_family(of_tensor, {"max": _largest, "min": _smallest}, layout="over")


@register_operator("aten.aminmax.default")
def aminmax(self: Array, dim: int | None = None, keepdim: bool = False) -> tuple[Array, Array]:
    """Return the smallest and the largest element along an axis, or of all."""
    places = axes(self, dim)
    return _smallest(self, places, keepdim), _largest(self, places, keepdim)


def _index(
    function: Callable[..., Array], self: Array, dim: int | None = None, keepdim: bool = False
) -> Array:
    """Return the index of an extremum, the first of equal ones; NaN counts as the extremum."""
    place = None if dim is None or self.ndim == 0 else axis(self, dim)
    return function(self, place, keepdims=keepdim).astype(held("int64"))


def _extremum(
    function: Callable[..., Array], self: Array, dim: int, keepdim: bool = False
) -> tuple[Array, Array]:
    """Return the extrema along an axis, only which have a gradient, and the indices of the first of them."""
    indices = _index(function, self, dim, keepdim=True)
    if self.ndim == 0:
        return self, indices
    place = axis(self, dim)
    values = jnp.take_along_axis(self, indices, place, mode="promise_in_bounds")
    return (values, indices) if keepdim else (values.squeeze(place), indices.squeeze(place))


register_family(_index, {"argmax": jnp.argmax, "argmin": jnp.argmin}, layout="over")
register_family(_extremum, {"max": jnp.argmax, "min": jnp.argmin}, "dim", layout="over")


def _middle(skips_nan: bool, x: Array) -> Array:
    """Return the index of the lower median along the last axis, which keeps size 1; the first of equal ones.

    NaN counts as the median, or is skipped.
    """
    order = jnp.argsort(x)  # NaN last
    numbers = (x == x).sum(-1, keepdims=True)
    place = jnp.maximum(numbers - 1, 0) // 2
    if not skips_nan:
        place = jnp.where(numbers < x.shape[-1], jnp.minimum(numbers, x.shape[-1] - 1), place)
    return jnp.take_along_axis(order, place, -1)


def _median_along(skips_nan: bool, self: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    """Return the lower medians along an axis and their indices. Only the elements there have a gradient."""
    rows = jnp.moveaxis(self, axis(self, dim), -1) if self.ndim else self[None]
    if rows.shape[-1] == 0:
        raise IndexError(f"the median along axis {dim} needs elements, got the shape {self.shape}")
    indices = _middle(skips_nan, rows)
    both = jnp.take_along_axis(rows, indices, -1), indices.astype(held("int64"))
    shaped = (jnp.moveaxis(x, -1, axis(self, dim)) if keepdim and self.ndim else x.squeeze(-1) for x in both)
    values, indices = shaped
    return values, indices


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _median_of_all(skips_nan: bool, self: Array) -> Array:
    """Return the lower median of all elements. Equal elements share the gradient, as in torch."""
    elements = self.reshape(-1)
    return elements[_middle(skips_nan, elements)[0]] if self.size else jnp.full((), jnp.nan, self.dtype)


@_median_of_all.defjvp
def _median_jvp(skips_nan: bool, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (change,) = primals, tangents
    value = _median_of_all(skips_nan, x)
    mask = (x == value) | ((x != x) & (value != value))
    return value, jnp.where(mask, change, 0).sum() / mask.sum().astype(change.dtype)


register_family(lambda skips_nan, self: _median_of_all(skips_nan, self), {"median": False, "nanmedian": True})
register_family(_median_along, {"median": False, "nanmedian": True}, "dim")


@register_operator("aten.topk.default")
def topk(
    self: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Array, Array]:
    """Return the k largest or smallest elements along an axis, in order, and their indices."""
    if self.ndim == 0:
        return self, jnp.zeros((), held("int64"))
    order = jnp.argsort(self, axis(self, dim), descending=largest)
    indices = jax.lax.slice_in_dim(order, 0, k, axis=axis(self, dim))
    return jnp.take_along_axis(self, indices, axis(self, dim)), indices.astype(held("int64"))


@register_operator("aten.sort.default", "aten.sort.stable")
def sort(
    self: Array, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> tuple[Array, Array]:
    """Return the elements in order along an axis, and their indices."""
    return topk(self, self.shape[axis(self, dim)] if self.ndim else 1, dim, descending)


@register_operator("aten.argsort.default", "aten.argsort.stable")
def argsort(self: Array, dim: int = -1, descending: bool = False, stable: bool = False) -> Array:
    """Return the indices of the elements in order along an axis; equal elements keep their order."""
    return sort(self, dim, descending)[1]


@register_operator("aten.kthvalue.default")
def kthvalue(self: Array, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Array, Array]:
    """Return the element at place ``k`` (from 1) in order along an axis, and its index."""
    if self.ndim == 0:
        return self, jnp.zeros((), held("int64"))
    place = axis(self, dim)
    both = (jax.lax.slice_in_dim(x, k - 1, k, axis=place) for x in sort(self, place))
    values, indices = both if keepdim else (x.squeeze(place) for x in both)
    return values, indices


@register_operator("aten.mode.default")
def mode(self: Array, dim: int = -1, keepdim: bool = False) -> tuple[Array, Array]:
    """Return the most frequent element along an axis, the smallest of several, and the last index of it.

    Beside several NaN, the result is unknown: torch's depends on its order of sorting.
    """
    if self.ndim == 0:
        return self, jnp.zeros((), held("int64"))
    rows = jnp.moveaxis(self, axis(self, dim), -1)
    ordered, order = sort(rows)
    starts = jnp.concatenate(
        [jnp.ones_like(ordered[..., :1], bool), ordered[..., 1:] != ordered[..., :-1]], -1
    )
    places = jnp.arange(ordered.shape[-1])
    first = jax.lax.cummax(jnp.where(starts, places, 0), ordered.ndim - 1)
    # The first of the largest numbers is at the last element of the first longest run.
    last = jnp.argmax(places - first, -1, keepdims=True)
    is_unknown = (rows != rows).sum(-1, keepdims=True) > 1
    unknown = jnp.nan if is_float(rows) else 0, jnp.iinfo(order.dtype).min
    both = (
        jnp.where(is_unknown, other, jnp.take_along_axis(x, last, -1)).astype(x.dtype)
        for x, other in zip((ordered, order), unknown, strict=True)
    )
    back = (jnp.moveaxis(x, -1, axis(self, dim)) if keepdim else x.squeeze(-1) for x in both)
    values, indices = back
    return values, indices


def _at(rows: Array, ranks: Array) -> Array:
    """Return the elements of rows (..., n) at whole ranks (k, ...)."""
    return jnp.take_along_axis(rows[None], ranks[..., None].astype(int), -1)[..., 0]


_ROUNDED = {"lower": jnp.floor, "higher": jnp.ceil, "nearest": jnp.round}


def _quantile(
    skips_nan: bool,
    self: Array,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    interpolation: str = "linear",
) -> Array:
    """Return elements at fractions of the way through the order along an axis, or of all; q.shape first.

    NaN makes a quantile NaN, or is skipped. A fraction outside of 0 to 1 gives NaN.
    """
    places = axes(self, dim)
    rows = jnp.sort(self.reshape(-1) if dim is None else jnp.moveaxis(jnp.atleast_1d(self), dim, -1))
    numbers = (rows == rows).sum(-1)
    fractions = jnp.asarray(q, self.dtype)
    column = fractions.reshape(-1, *[1] * numbers.ndim)
    ranks = column * jnp.maximum(numbers - 1, 0).astype(self.dtype)
    if not skips_nan:
        ranks = jnp.where(numbers < rows.shape[-1], rows.shape[-1] - 1, ranks)
    if rounded := _ROUNDED.get(interpolation):
        result = _at(rows, rounded(ranks))
    else:
        weight = 0.5 if interpolation == "midpoint" else ranks - jnp.floor(ranks)
        result = lerp(_at(rows, jnp.floor(ranks)), _at(rows, jnp.ceil(ranks)), weight)
    result = jnp.where((column >= 0) & (column <= 1), result, jnp.nan)
    if keepdim:
        result = jnp.expand_dims(result, [place + 1 for place in places])
    return result if fractions.ndim else result[0]


register_family(_quantile, {"quantile": False, "nanquantile": True}, "default scalar")


@register_operator("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def searchsorted(
    sorted_sequence: Array,
    self: Operand,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Array | None = None,
) -> Array:
    """Return the index before which each value belongs into a sequence in ascending order.

    The sequence is one for all values, or one for each row of values: (..., n) and (..., m).
    """
    if sorter is not None:
        sorted_sequence = jnp.take_along_axis(sorted_sequence, sorter, -1)
    sequences, values = promoted(sorted_sequence, self)
    search_side: Any = "right" if right or side == "right" else "left"
    search = partial(jnp.searchsorted, side=search_side)
    if sequences.ndim > 1:
        search = jnp.vectorize(search, signature="(n),(m)->(m)")
    return search(sequences, values).astype(np.int32 if out_int32 else held("int64"))


@register_operator("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def bucketize(self: Operand, boundaries: Array, out_int32: bool = False, right: bool = False) -> Array:
    """Return the number of the bucket of each value among boundaries in ascending order."""
    return searchsorted(boundaries, self, out_int32, right)
