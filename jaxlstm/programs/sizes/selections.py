"""Operators whose results have sizes that depend on values, such as ``x[mask]``, ``nonzero`` and packing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import held
from jaxlstm.programs.operators.indexing import if_valid
from jaxlstm.programs.operators.unique import Groups, asked_for, starts_of_groups
from jaxlstm.programs.sizes.prefix import Count, Prefix, UnprovenError, array_of, is_unknown


def selected(op: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the result of an operator that failed because its shape depends on values, or None."""
    select = _SELECTIONS.get(op)
    return select and select(**kwargs)


def is_along(x: Any, dim: int) -> bool:
    """Return True if the only unknown axis is this one."""
    return isinstance(x, Prefix) and x.axes == (axis(x.array, dim),)


def rows_at(self: Array, mask: Array, place: int) -> Prefix:
    """Return the elements of flattened axes where a mask is True, in order."""
    size = math.prod(self.shape[place : place + mask.ndim])
    rows = self.reshape(*self.shape[:place], size, *self.shape[place + mask.ndim :])
    order = jnp.argsort(~mask.reshape(-1), stable=True)
    return Prefix(jnp.take(rows, order, place), (place,), Count(mask.sum(), size)).repeated()


def _elements_of(self: Any) -> tuple[Array, Array]:
    """Return the elements, and True for those that torch has."""
    array: Any = array_of(self)
    valid = self.valid() if isinstance(self, Prefix) else True
    return array, jnp.broadcast_to(valid, array.shape)


def _index_by_mask(self: Array, indices: Sequence[Array | None]) -> Prefix | None:
    mask = indices[-1]
    if any(item is not None for item in indices[:-1]) or mask is None or mask.dtype != bool:
        return None
    return rows_at(self, mask, len(indices) - 1)


def _masked_select(self: Array, mask: Array) -> Prefix:
    shape = jnp.broadcast_shapes(self.shape, mask.shape)
    return rows_at(jnp.broadcast_to(self, shape), jnp.broadcast_to(mask, shape), 0)


def _nonzero(self: Any) -> tuple[Prefix, ...]:
    array, valid = _elements_of(self)
    places = jnp.indices(array.shape).astype(held("int64"))
    return tuple(rows_at(place, (array != 0) & valid, 0) for place in places)


def _nonzero_in_rows(self: Any) -> Prefix | None:
    if array_of(self).ndim == 0:
        return None
    places = _nonzero(self)
    return replace(places[0], array=jnp.stack([place.array for place in places], 1))


def bound_of(bound: Any, length: Any, size: int) -> Any:
    """Return the bound of a slice of an axis as a place from 0 to its length, which is at most ``size``."""
    bound = bound.number() if isinstance(bound, Count) else bound
    bound = max(min(bound, size), -size) if isinstance(bound, int) else bound
    return jnp.clip(jnp.where(bound < 0, bound + length, bound), 0, length)


def slice_(self: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Prefix | None:
    """Return a slice whose bounds, or whose axis, have an unknown size; None for others."""
    array: Any = array_of(self)
    place = axis(array, dim)
    size, is_inner = array.shape[place], is_along(self, dim)
    start, end = 0 if start is None else start, size if end is None else end
    is_known = type(start) is int and type(end) is int
    is_whole = is_known and start == 0 and end >= size
    if step != 1 or is_whole or (not is_inner and (is_known or is_unknown(self))):
        return None
    length = self.count.number() if is_inner else size
    begin, stop = (bound_of(bound, length, size) for bound in (start, end))
    if type(start) is not int or start:
        array = jnp.roll(array, -begin, place)
    return Prefix(array, (place,), Count(jnp.maximum(stop - begin, 0), size)).repeated()


def pack(input: Any, lengths: Array, batch_first: bool) -> Prefix:
    """Return the steps up to the longest sequence, which is the first one."""
    place, array = 1 if batch_first else 0, array_of(input)
    is_cut = isinstance(input, Prefix) and not input.count.is_packed  # such as x[:, : lengths.max()]
    if isinstance(input, Prefix) and input.axis != place:
        raise UnprovenError
    if is_cut:  # torch requires that it has the steps of the longest sequence.
        array = if_valid(array, lengths[0] <= input.count.number())
    count = Count(lengths[0], array.shape[place], is_packed=True)
    return Prefix(array, (place,), count, is_padded=not is_cut)


def _unique(
    self: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> Groups | None:
    array, valid = _elements_of(self)
    order = jnp.lexsort((array.reshape(-1), ~valid.reshape(-1)))
    ordered = array.reshape(-1)[order], valid.reshape(-1)[order]
    return _groups(self, *ordered, jnp.argsort(order), return_inverse, return_counts)


def _unique_consecutive(
    self: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Groups | None:
    array, valid = _elements_of(self)
    if dim is not None and array.ndim > 1:
        return None
    order = jnp.arange(array.size)
    return _groups(self, array.reshape(-1), valid.reshape(-1), order, return_inverse, return_counts)


def _groups(
    self: Any, ordered: Array, valid: Array, places: Array, return_inverse: bool, return_counts: bool
) -> Groups | None:
    """Return the groups of equal elements that follow each other; ``places`` are those of the elements."""
    if isinstance(self, Prefix) and self.axis:
        return None
    starts = starts_of_groups(ordered) & valid
    values, groups = rows_at(ordered, starts, 0), jnp.cumsum(starts) - 1
    counts = jnp.bincount(jnp.where(valid, groups, ordered.size), length=ordered.size).astype(held("int64"))
    inverse = groups[places].reshape(array_of(self).shape).astype(held("int64"))
    numbers = replace(self, array=inverse).repeated() if isinstance(self, Prefix) else inverse
    return asked_for(
        (values, numbers, replace(values, array=counts).repeated()), return_inverse, return_counts
    )


AGAIN: dict[str, Callable[..., Any]] = {
    "aten._unique2.default": _unique,
    "aten.unique_consecutive.default": _unique_consecutive,
    "aten.nonzero.default": _nonzero_in_rows,
    **dict.fromkeys(("aten.nonzero_numpy.default", "aten.where.default"), _nonzero),
}
"""Operators that also select from arrays of unknown size."""

_SELECTIONS: dict[str, Callable[..., Any]] = {
    **AGAIN,
    "aten.index.Tensor": _index_by_mask,
    "aten.masked_select.default": _masked_select,
    "aten.slice.Tensor": slice_,
    "jaxlstm.pack_padded.default": pack,
}
