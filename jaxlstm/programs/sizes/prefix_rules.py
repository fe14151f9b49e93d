"""Operators on arrays with unknown sizes that can leave elements out. Others run by `prefix.run_proven`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.indexing import if_valid
from jaxlstm.programs.operators.registry import functional_name
from jaxlstm.programs.sizes.element_rules import ELEMENTS
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
from jaxlstm.programs.sizes.selections import AGAIN, is_along, pack, rows_at
from jaxlstm.programs.sizes.window_rules import WINDOWS

_MOST = 1 << 14
"""The most steps of a batch for which a function of their number may be a size."""


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
    if name == "aten.slice.Tensor" and (cut := _cut(*args, **kwargs)) is not None:
        return cut, False
    rule = _RULES.get(name)
    result = rule and rule(apply, *args, **kwargs)
    if result is None:
        result, matters = run_proven(apply, args, kwargs)
    else:
        result = jax.tree.map(_with_other_elements, result, is_leaf=is_unknown)
        matters = not name.startswith(("aten.sym_", "aten.new_", "aten.gather."))
    return result, matters or any(map(_falls, jax.tree.leaves((args, kwargs), is_leaf=is_unknown)))


def _of_numbers(name: str, apply: Apply, args: Sequence[Any]) -> Any:
    """Return a function of numbers. A number that follows from the length of a packed batch may be a size."""
    counts = [arg for arg in args if isinstance(arg, Count)]
    factors = [arg for arg in args if type(arg) is int and arg > 0]
    if name == "_operator.mul" and len(counts) == len(factors) == 1:
        return replace(counts[0], times=counts[0].times * factors[0])
    result = apply(*(arg.number() if isinstance(arg, Count) else arg for arg in args))
    if not all(count.is_packed and type(count.size) is int for count in counts):
        return result
    first = counts[0]
    if first.size > _MOST or any(count.value is not first.value for count in counts):
        return result
    # The largest result for any number of steps that the batch may have bounds a size.
    try:
        *found, at_whole = (
            apply(*(n * arg.times if isinstance(arg, Count) else arg for arg in args))
            for n in (*(first.possible or range(first.size + 1)), first.whole)
        )
    except ZeroDivisionError:
        return result
    if {*map(type, found)} != {int}:
        return result
    most, possible = max(*found, 0), tuple(sorted({*found}))
    return Count(result, most, 1, True, None if at_whole == most else at_whole, possible)


def _falls(leaf: Any) -> bool:
    """Return True for a size that a batch without padding does not have as the largest."""
    count = leaf.count if isinstance(leaf, Prefix) else leaf
    return isinstance(count, Count) and count.at_whole is not None


def _cut(self: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Prefix | None:
    """Return the steps of an array up to the longest sequence of a packed batch."""
    is_start = start is None or (type(start) is int and start == 0)
    if is_unknown(self) or not isinstance(end, Count) or not end.is_packed or not is_start or step != 1:
        return None
    place = axis(self, dim)
    is_whole = self.shape[place] == end.size * end.times
    return Prefix(self, (place,), end, is_padded=True) if is_whole else None


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
    if (
        isinstance(total_length, Count)
        and isinstance(data, Prefix)
        and total_length.value is data.count.value
    ):
        total_length = None
    if not is_along(data, 1 if kwargs["batch_first"] else 0) or is_among((kwargs, total_length)):
        raise UnprovenError
    result = apply(data=data.array, total_length=total_length, **kwargs)
    return replace(data, array=result, is_padded=True) if total_length is None else result


def _size(apply: Apply, self: Any, dim: int) -> Count | None:
    size = _sizes(self)[axis(array_of(self), dim)]
    return size if isinstance(size, Count) else None


def _number_of_elements(apply: Apply, self: Prefix) -> Count:
    if len(self.axes) > 1:
        raise UnprovenError
    return replace(self.count, times=self.array.size // self.count.size) if self.count.size else self.count


def _view(apply: Apply, self: Any, size: Sequence[Any]) -> Any:
    """Return flat elements in rows, whose number may be known, or sequences as rows and back."""
    is_one = isinstance(self, Prefix) and len(self.axes) == 1 and self.count.at_whole is None
    result = (_rows_of_steps(self, size) if self.axis else _steps_of_rows(self, size)) if is_one else None
    if result is not None:
        return result
    row = math.prod(size[1:]) if all(type(n) is int for n in size) else 0
    if not isinstance(self, Prefix) or self.array.ndim > 1 or row < 1:
        return None
    if size[0] >= 0:
        return apply(self.at_size(size[0] * row), size)
    count = Count(self.count.number() // row, self.array.size // row)
    return Prefix(self.array.reshape(-1, *size[1:]), (0,), count)


def _rows_of_steps(self: Prefix, size: Sequence[Any]) -> Prefix | None:
    """Return the steps of sequences as rows: (B, T, ...) -> (B * T, ...)."""
    first, *inner = size
    steps, features = self.array.shape[: self.axis + 1], math.prod(self.array.shape[self.axis + 1 :])
    if not all(type(n) is int and n > 0 for n in inner) or features % math.prod(inner):
        return None
    times = features // math.prod(inner)
    valid = jnp.broadcast_to(self.valid().reshape(-1), steps)
    rows = rows_at(self.array, valid, 0)
    count = replace(rows.count, times=times, is_packed=self.count.is_packed)
    array = _if_equal(rows.array.reshape(-1, *inner), first, count.number())
    return Prefix(array, (0,), count)


def _steps_of_rows(self: Prefix, size: Sequence[Any]) -> Prefix | None:
    """Return rows as the steps of sequences: (B * T, ...) -> (B, T, ...)."""
    if len(size) < 2 or not all(type(n) is int and n > 0 for n in size[2:]):
        return None
    (batch, steps, *inner), row = size, math.prod(size[2:])
    rows = self.array.size // row
    if type(batch) is int and batch < 0 and isinstance(steps, Count) and steps.size:
        batch = rows // (steps.size * steps.times)
    is_batch = type(batch) is int and batch > 0 and rows % batch == 0
    if not is_batch or rows * row != self.array.size or (type(steps) is int and steps >= 0):
        return None
    number = self.count.number() * math.prod(self.array.shape[1:])
    count = Count(number // (batch * row), rows // batch, is_packed=self.count.is_packed)
    if isinstance(steps, Count) and steps.size * steps.times == count.size:
        count = steps
    longest = count.number()
    places = jnp.arange(batch)[:, None] * longest + jnp.arange(rows // batch)
    array = jnp.take(self.array.reshape(-1, *inner), places, 0, mode="clip")
    return Prefix(_if_equal(array, batch * longest * row, number), (1,), count).repeated()


def _if_equal(array: Array, size: Any, number: Array) -> Array:
    """Return an array if a size, which may be -1, is the number that it should be, else NaN."""
    size = size.number() if isinstance(size, Count) else size
    return array if type(size) is int and size < 0 else if_valid(array, jnp.equal(size, number))


def _flatten(apply: Apply, self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    first, last = (axis(array_of(self), dim) for dim in (start_dim, end_dim))
    size = _sizes(self)
    return _view(apply, self, (*size[:first], -1, *size[last + 1 :])) if first < last else None


def _unflatten(apply: Apply, self: Any, dim: int, sizes: Sequence[Any]) -> Any:
    place, size = axis(array_of(self), dim), _sizes(self)
    return _view(lambda x, _: apply(x, dim, sizes), self, (*size[:place], *sizes, *size[place + 1 :]))


def _view_as(apply: Apply, self: Any, other: Any) -> Any:
    return _view(jnp.reshape, self, _sizes(other))


def _sizes(x: Any) -> list[Any]:
    """Return the sizes of the axes, some of which may be unknown."""
    unknown = x.axes if isinstance(x, Prefix) else ()
    return [x.count if place in unknown else size for place, size in enumerate(array_of(x).shape)]


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
    return input.unless_empty((replace(input, array=results[0]), *results[1:]))


def _again(op: str, apply: Apply, **kwargs: Any) -> Any:
    return AGAIN[op](**kwargs)


_RULES: dict[str, Callable[..., Any]] = {
    **{op: partial(_again, op) for op in AGAIN},
    "aten.sym_size.int": _size,
    "aten.sym_numel.default": _number_of_elements,
    **dict.fromkeys((f"aten.new_{name}.default" for name in ("zeros", "ones", "full")), _new),
    "aten.view.default": _view,
    "aten.reshape.default": _view,
    "aten.flatten.using_ints": _flatten,
    "aten.unflatten.int": _unflatten,
    "aten.view_as.default": _view_as,
    **dict.fromkeys((f"aten.{name}.input" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")), _recurrence),
    **REDUCTIONS,
    **WINDOWS,
    **ELEMENTS,
}
_OF_PACKED: dict[str, Callable[..., Any]] = {
    "jaxlstm.pack_padded.default": lambda apply, *args, **kwargs: pack(*args, **kwargs),
    "jaxlstm.pad_packed.default": _pad,
    **dict.fromkeys(
        (f"jaxlstm.packed_{name}.default" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")), _packed_layer
    ),
}
"""Rules whose results hold after the longest sequence what torch computes for padding."""
