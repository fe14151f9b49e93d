"""Rules of operators that select, move, join or write elements along an axis of unknown size."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.indexing import masked_scatter, take
from jaxlstm.programs.sizes.prefix import Apply, Count, Prefix, UnprovenError, array_of, is_unknown
from jaxlstm.programs.sizes.selections import bound_of, is_along, rows_at, slice_


def _slice_scatter(
    apply: Apply, self: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Array | None:
    """Write a slice whose bounds are unknown."""
    place = axis(array_of(self), dim)
    is_slice = isinstance(src, Prefix) and src.axis == place and step == 1 and not is_unknown(self)
    if not is_slice or src.array.shape != self.shape:
        return None
    begin = bound_of(0 if start is None else start, self.shape[place], self.shape[place])
    valid, rows = (jnp.roll(item, begin, item.ndim - self.ndim + place) for item in (src.valid(), src.array))
    return jnp.where(valid, rows.astype(self.dtype), self)


def _sort(apply: Apply, self: Any, dim: int = -1, **settings: Any) -> Any:
    """Sort all elements, and then move to the end the elements that torch lacks."""
    if not is_along(self, dim):
        return None
    results = apply(self.array, dim, **settings)
    both = results if isinstance(results, tuple) else (results,)
    valid = jnp.take_along_axis(jnp.broadcast_to(self.valid(), self.array.shape), both[-1], self.axis)
    order = jnp.argsort(~valid, self.axis, stable=True)
    both = tuple(replace(self, array=jnp.take_along_axis(x, order, self.axis)).repeated() for x in both)
    return both if isinstance(results, tuple) else both[0]


def _cat(apply: Apply, tensors: Sequence[Any], dim: int = 0) -> Prefix | None:
    """Concatenate along the unknown axis, and move to the end the elements that torch lacks."""
    if not any(is_along(tensor, dim) for tensor in tensors):
        return None
    arrays = [array_of(tensor) for tensor in tensors]
    place = axis(arrays[0], dim)
    if any(is_unknown(tensor) and tensor.axis != place for tensor in tensors):
        return None
    ones = (jnp.ones(array.shape[place], bool) for array in arrays)
    pairs = zip(ones, tensors, strict=True)
    valid = jnp.concatenate([mask & x.valid().reshape(-1) if is_unknown(x) else mask for mask, x in pairs])
    array = jnp.take(apply(arrays, dim), jnp.argsort(~valid, stable=True), place)
    counts = [x.count for x in tensors if isinstance(x, Prefix)]
    whole = sum(array.shape[place] for x, array in zip(tensors, arrays, strict=True) if not is_unknown(x))
    whole += sum(count.whole * count.times for count in counts)
    is_packed = all(count.is_packed for count in counts)
    return Prefix(array, (place,), Count(valid.sum(), valid.size, 1, is_packed, whole)).repeated()


def _pad_sequence(
    apply: Apply,
    sequences: Sequence[Any],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Prefix:
    """Stack sequences of several unknown lengths, padded to the longest."""
    if not all(is_along(x, 0) for x in sequences if is_unknown(x)) or padding_side != "right":
        raise UnprovenError  # Other operators than this one need equal lengths, which a proof assumes.
    arrays = [
        jnp.where(x.valid(), x.array, jnp.asarray(padding_value, x.array.dtype)) if is_unknown(x) else x
        for x in sequences
    ]
    longest = [x.count.number() if is_unknown(x) else x.shape[0] for x in sequences]
    count = Count(jnp.max(jnp.stack([*map(jnp.asarray, longest)])), max(len(array) for array in arrays))
    array = apply(arrays, batch_first, padding_value)
    return Prefix(array, (1 if batch_first else 0,), count).repeated()


def _pad_constant(apply: Apply, self: Any, pad: Sequence[Any], **settings: Any) -> Prefix | None:
    """Add constants before and after the elements that torch has, as many as a number or a size says."""
    array, sides = array_of(self), [*pad, *(0,) * (2 * array_of(self).ndim - len(pad))]
    unknown = {array.ndim - 1 - place // 2 for place, side in enumerate(sides) if is_unknown(side)}
    axes = unknown | {*(self.axes if isinstance(self, Prefix) else ())}
    (place,) = axes if len(axes) == 1 else (0,)
    first = 2 * (array.ndim - 1 - place)
    before, after = sides[first : first + 2]
    sides[first : first + 2] = 0, 0
    least = after.size * after.times if isinstance(after, Count) else after
    if (
        len(axes) != 1
        or type(before) is not int
        or min(before, least) < 0
        or settings.get("mode", "constant") != "constant"
    ):
        return None
    inner = apply(array, tuple(sides), **settings)

    def part(size: int) -> Array:
        shape = (*inner.shape[:place], size, *inner.shape[place + 1 :])
        return jnp.full(shape, settings.get("value") or 0, inner.dtype)

    end = Prefix(part(least), (place,), after) if isinstance(after, Count) else part(least)
    parts = part(before), replace(self, array=inner) if isinstance(self, Prefix) else inner, end
    result = _cat(lambda arrays, dim: jnp.concatenate(arrays, dim), parts, place)
    if result is None or not isinstance(after, Count):
        return result
    # A negative number of elements after the end is cut off.
    number = (
        before + (self.count.number() if isinstance(self, Prefix) else array.shape[place]) + after.number()
    )
    return replace(result, count=replace(result.count, value=number)).repeated()


def _index_select(apply: Apply, self: Any, dim: int, index: Any) -> Any:
    if not is_along(self, dim):
        return None
    elements = take(self.array, _places(self, index), self.axis)
    return Prefix(elements, (self.axis,), index.count) if isinstance(index, Prefix) else elements


def _places(self: Prefix, index: Any) -> Array:
    """Return indices of the axis. An index that torch refuses gives NaN."""
    return self.places(index.repeated().array if isinstance(index, Prefix) else index)


def _select(apply: Apply, self: Any, dim: int, index: Any) -> Any:
    if not is_along(self, dim):
        return None
    place = jnp.atleast_1d(jnp.where(index < 0, index + self.count.number(), index))
    return take(self.array, self.places(place), self.axis).squeeze(self.axis)


def _index(apply: Apply, self: Any, indices: Sequence[Any]) -> Any:
    """Return elements by a mask of the first axis, or by as many integers for each of the first axes."""
    arrays = [array_of(index) for index in indices]
    if not isinstance(self, Prefix) or any(index is None for index in arrays):
        return None
    if len(arrays) == 1 and arrays[0].dtype == bool and self.axis < arrays[0].ndim:
        return rows_at(self.array, arrays[0] & replace(self, array=arrays[0]).valid(), 0)
    are_rows = all(index.ndim == 1 and index.dtype not in (jnp.uint8, bool) for index in arrays)
    if not are_rows or self.axis >= len(arrays):
        return None
    index, places = indices[self.axis], arrays[self.axis]
    places = jnp.where(places < 0, places + self.count.number(), places)
    arrays[self.axis] = _places(self, replace(index, array=places) if isinstance(index, Prefix) else places)
    elements = apply(self.array, tuple(arrays))
    counts = [index.count for index in indices if isinstance(index, Prefix)]
    return Prefix(elements, (0,), counts[0]) if counts else elements


def _gather(apply: Apply, self: Any, dim: int, index: Any, **settings: Any) -> Any:
    """Return elements along the axis, or along another one if both have an axis of unknown size.

    The index may have fewer rows than the array.
    """
    if is_along(self, dim) and not is_unknown(index):
        # An index that torch refuses gives NaN.
        return apply(self.array, dim, self.places(index))
    are_prefixes = isinstance(self, Prefix) and isinstance(index, Prefix)
    if not are_prefixes or self.axis != index.axis or is_along(self, dim):
        return None
    inner = axis(self.array, dim) - (axis(self.array, dim) > self.axis)
    gather = jax.vmap(lambda row, places: apply(row, inner, places), self.axis, self.axis)
    return replace(index, array=gather(self.array, index.array))


def _flip(apply: Apply, self: Any, dims: Sequence[int]) -> Prefix | None:
    if not any(is_along(self, dim) for dim in dims):
        return None
    last = self.count.number() - 1
    array = take(self.array, jnp.maximum(last - jnp.arange(self.array.shape[self.axis]), 0), self.axis)
    known_dims = [dim for dim in dims if not is_along(self, dim)]
    return replace(self, array=apply(array, known_dims) if known_dims else array)


def _scatter(apply: Apply, self: Any, dim: int, index: Any, *source: Any, **settings: Any) -> Any:
    """Write the elements that torch has."""
    if not isinstance(index, Prefix) or (index.array.ndim > 1 and not is_along(index, dim)):
        return None
    places = jnp.where(index.valid(), index.array, array_of(self).shape[axis(array_of(self), dim)])
    settings = {name: array_of(value) for name, value in settings.items()}
    result = apply(array_of(self), dim, places, *map(array_of, source), **settings)
    return replace(self, array=result) if isinstance(self, Prefix) else result


def _index_put(apply: Apply, self: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """Write the elements that torch has at the places of a mask, or at indices along the first axis."""
    index = indices[0]
    if not isinstance(values, Prefix) or values.axis or len(indices) != 1:
        return None
    if isinstance(self, Prefix):
        if not isinstance(index, Prefix) or index.array.dtype != bool or self.axis or index.axis:
            return None
        array = _index_put(apply, self.array, (index.array & index.valid(),), values, accumulate)
        return None if array is None else replace(self, array=array).repeated()
    if isinstance(index, Prefix):
        places = jnp.where(index.valid(), index.array, self.shape[0])
        return apply(self, (places,), values.array, accumulate)
    if index.dtype != bool or accumulate:
        return None
    mask = index.reshape(*index.shape, *(1,) * (self.ndim - index.ndim))
    return masked_scatter(self, mask, values.filled().astype(self.dtype))


def _masked_scatter(apply: Apply, self: Any, mask: Any, source: Any) -> Any:
    if not isinstance(source, Prefix) or source.axis:
        return None
    if not isinstance(self, Prefix):
        return None if isinstance(mask, Prefix) else apply(self, mask, source.filled())
    if not isinstance(mask, Prefix) or (mask.axis, mask.array.ndim) != (self.axis, self.array.ndim):
        return None
    array = apply(self.array, mask.array & mask.valid(), source.filled())
    return replace(self, array=array).repeated()


ELEMENTS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        (f"aten.{name}.{form}" for name in ("sort", "argsort") for form in ("default", "stable")), _sort
    ),
    "aten.cat.default": _cat,
    "aten.pad_sequence.default": _pad_sequence,
    **dict.fromkeys(("aten.pad.default", "aten.constant_pad_nd.default"), _pad_constant),
    "aten.index_select.default": _index_select,
    "aten.select.int": _select,
    "aten.slice_scatter.default": _slice_scatter,
    "aten.index.Tensor": _index,
    "aten.gather.default": _gather,
    "aten.flip.default": _flip,
    **dict.fromkeys(("aten.scatter.src", "aten.scatter_add.default"), _scatter),
    **dict.fromkeys(("aten.index_copy.default", "aten.index_add.default"), _scatter),
    "aten.index_put.default": _index_put,
    "aten.masked_scatter.default": _masked_scatter,
    "aten.slice.Tensor": lambda apply, *args, **kwargs: slice_(*args, **kwargs),
}
