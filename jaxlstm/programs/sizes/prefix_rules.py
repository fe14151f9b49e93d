"""Operators on arrays with unknown sizes that can leave elements out. Others run by `prefix.run_proven`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.indexing import masked_scatter, take
from jaxlstm.programs.operators.registry import functional_name
from jaxlstm.programs.sizes.prefix import (
    Apply,
    Count,
    Prefix,
    UnprovenError,
    array_of,
    is_among,
    is_unknown,
    run_proven,
)
from jaxlstm.programs.sizes.reduction_rules import REDUCTIONS
from jaxlstm.programs.sizes.selections import bound_of, is_along, pack, rows_at, slice_
from jaxlstm.programs.sizes.window_rules import WINDOWS


def run_unknown(op: str, apply: Apply, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, bool]:
    """Return the result of an operator with unknown sizes among its arguments.

    Returns:
      The result, and whether the elements that torch lacks would change it.
    """
    name = functional_name(op)
    if not name.startswith("aten.") and name.partition(".")[0] in ("_operator", "math", "torch"):
        result = _of_numbers(name, apply, args)
        return result, not is_unknown(result)
    if rule := _OF_PACKED.get(name):
        return rule(apply, *args, **kwargs), False
    rule = _RULES.get(name)
    result = rule and rule(apply, *args, **kwargs)
    if result is None:
        return run_proven(apply, args, kwargs)
    matters = rule not in (_size, _number_of_elements, _new, _gather)
    return jax.tree.map(_with_other_elements, result, is_leaf=is_unknown), matters


def _of_numbers(name: str, apply: Apply, args: Sequence[Any]) -> Any:
    """Return a function of numbers. A number that follows from the length of a packed batch may be a size."""
    counts = [arg for arg in args if isinstance(arg, Count)]
    factors = [arg for arg in args if type(arg) is int and arg > 0]
    if name == "_operator.mul" and len(counts) == len(factors) == 1:
        return replace(counts[0], times=counts[0].times * factors[0])
    result = apply(*(arg.number() if isinstance(arg, Count) else arg for arg in args))
    if not all(count.is_packed for count in counts):
        return result
    whole = apply(*(arg.size * arg.times if isinstance(arg, Count) else arg for arg in args))
    return Count(result, whole, is_packed=True) if type(whole) is int else result


def _with_other_elements(result: Any) -> Any:
    return replace(result, is_padded=False) if isinstance(result, Prefix) else result


def _packed_layer(apply: Apply, input: Any, lengths: Any, hx: Any, params: Any, **settings: Any) -> Any:
    """Run a recurrent layer over sequences whose lengths say where they end."""
    if not is_along(input, 1 if settings["batch_first"] else 0) or is_among((lengths, hx, params)):
        raise UnprovenError
    outputs, *states = apply(input=input.array, lengths=lengths, hx=hx, params=params, **settings)
    return replace(input, array=outputs), *states


def _pad(apply: Apply, data: Any, total_length: Any = None, **kwargs: Any) -> Any:
    """Set the steps after the end of each sequence."""
    if not is_along(data, 1 if kwargs["batch_first"] else 0) or is_among((kwargs, total_length)):
        raise UnprovenError
    result = apply(data=data.array, total_length=total_length, **kwargs)
    return replace(data, array=result, is_padded=True) if total_length is None else result


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


def _size(apply: Apply, self: Any, dim: int) -> Count | None:
    return self.count if isinstance(self, Prefix) and axis(self.array, dim) in self.axes else None


def _number_of_elements(apply: Apply, self: Prefix) -> Count:
    if len(self.axes) > 1:
        raise UnprovenError
    return replace(self.count, times=self.array.size // self.count.size) if self.count.size else self.count


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
    return Prefix(array, (place,), Count(valid.sum(), valid.size)).repeated()


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


def _view(apply: Apply, self: Any, size: Sequence[Any]) -> Any:
    """Return flat elements in rows, whose number may be known, or sequences as rows and back."""
    result = _flat_steps(self, size) if isinstance(self, Prefix) and len(self.axes) == 1 else None
    if result is not None:
        return result
    row = math.prod(size[1:]) if all(type(n) is int for n in size) else 0
    if not isinstance(self, Prefix) or self.array.ndim > 1 or row < 1:
        return None
    if size[0] >= 0:
        return apply(self.at_size(size[0] * row), size)
    count = Count(self.count.number() // row, self.array.size // row)
    return Prefix(self.array.reshape(-1, *size[1:]), (0,), count)


def _flat_steps(self: Prefix, size: Sequence[Any]) -> Prefix | None:
    """Return the steps of sequences as rows, (B, T, ...) -> (B * T, ...), or such rows as sequences."""
    first, *inner = size
    number, (steps, *features) = self.count.number(), self.array.shape[self.axis :]
    if self.axis == 1 and not is_among(inner) and tuple(inner) == tuple(features) and self.count.is_packed:
        rows = rows_at(self.array, jnp.broadcast_to(self.valid().reshape(-1), self.array.shape[:2]), 0)
        return replace(rows, count=replace(rows.count, is_packed=True))
    is_batch = type(first) is int and first > 0 and steps % first == 0 and len(inner) == len(features) + 1
    if self.axis or not is_batch or not self.count.is_packed or tuple(inner[1:]) != tuple(features):
        return None
    longest = number // first
    places = jnp.arange(first)[:, None] * longest + jnp.arange(steps // first)
    count = Count(longest, steps // first, is_packed=True)
    return Prefix(jnp.take(self.array, places, 0, mode="clip"), (1,), count).repeated()


def _new(apply: Apply, self: Any, size: Any, **settings: Any) -> Any:
    """Return an array that has only the dtype of the first argument."""
    args = array_of(self).reshape(-1)[:0], size
    return run_proven(apply, args, settings)[0] if is_among(size) else apply(*args, **settings)


def _recurrence(apply: Apply, input: Any, *operands: Any, batch_first: bool, **settings: Any) -> Any:
    """Run a recurrent layer over time: each sequence ends after the steps that torch has."""
    if not is_along(input, 1 if batch_first else 0):
        return None
    lengths = jnp.broadcast_to(input.count.number(), input.array.shape[0 if batch_first else 1])
    results = apply(input.array, *operands, batch_first=batch_first, seq_lengths=lengths, **settings)
    return replace(input, array=results[0]), *results[1:]


_RULES: dict[str, Callable[..., Any]] = {
    "aten.sym_size.int": _size,
    "aten.sym_numel.default": _number_of_elements,
    **dict.fromkeys(
        (f"aten.{name}.{form}" for name in ("sort", "argsort") for form in ("default", "stable")), _sort
    ),
    "aten.cat.default": _cat,
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
    **dict.fromkeys((f"aten.new_{name}.default" for name in ("zeros", "ones", "full")), _new),
    "aten.view.default": _view,
    "aten.reshape.default": _view,
    **dict.fromkeys((f"aten.{name}.input" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")), _recurrence),
    **REDUCTIONS,
    **WINDOWS,
    "aten.slice.Tensor": lambda apply, *args, **kwargs: slice_(*args, **kwargs),
}
_OF_PACKED: dict[str, Callable[..., Any]] = {
    "jaxlstm.pack_padded.default": lambda apply, *args, **kwargs: pack(*args, **kwargs),
    "jaxlstm.pad_packed.default": _pad,
    **dict.fromkeys(
        (f"jaxlstm.packed_{name}.default" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")), _packed_layer
    ),
}
"""Rules whose results hold after the longest sequence what torch computes for padding."""
