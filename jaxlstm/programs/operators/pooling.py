"""Pooling over one, two or three spatial axes, for (N, C, *size) or (C, *size)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.dtypes import held
from jaxlstm.programs.operators.registry import register_family, register_operator
from jaxlstm.programs.operators.windows import Ints, Windows

# Each part is a separate operation. Without a bound, a number in a file could fill the memory.
_MOST_PARTS = 1 << 16


def _max_pool(
    n: int,
    self: Array,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Array:
    return Windows(self, n, kernel_size, stride, padding, dilation, ceil_mode).largest(self)


def _max_pool_with_indices(
    n: int,
    self: Array,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    return Windows(self, n, kernel_size, stride, padding, dilation, ceil_mode).largest_with_indices(self)


def _avg_pool(
    n: int,
    self: Array,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    windows = Windows(self, n, kernel_size, stride, padding, 1, ceil_mode)
    wide = self.astype(gate_dtype(self.dtype))
    sums = windows.sums(wide)
    if divisor_override is not None:
        return (sums / divisor_override).astype(self.dtype)
    return (sums / windows.counts(count_include_pad).astype(wide.dtype)).astype(self.dtype)


def _adaptive_max_pool(n: int, self: Array, output_size: Sequence[int]) -> tuple[Array, Array]:
    sizes = self.shape[-n:]
    places = jnp.arange(math.prod(sizes), dtype=held("int64")).reshape(sizes)
    values, places = self, jnp.broadcast_to(places, self.shape)
    # The last axis first, so that the first of equal elements in memory wins.
    for place, count in reversed(list(enumerate(output_size, start=self.ndim - n))):
        bounds = part_bounds(sizes[place - self.ndim], count)
        values, places = _largest_of_parts(values, places, place, bounds)
    return values, places


for _n in (1, 2, 3):
    register_family(_max_pool, {f"max_pool{_n}d": _n})
    register_family(_max_pool_with_indices, {f"max_pool{_n}d_with_indices": _n})
    register_family(_avg_pool, {f"avg_pool{_n}d": _n})
    register_family(_adaptive_max_pool, {f"adaptive_max_pool{_n}d": _n})


@register_operator(*(f"aten.adaptive_avg_pool{n}d.default" for n in (1, 2, 3)))
def adaptive_avg_pool(self: Array, output_size: Sequence[int]) -> Array:
    """Average windows that divide each axis into ``output_size`` parts; parts may overlap by one element."""
    x = self.astype(gate_dtype(self.dtype))
    first = self.ndim - len(output_size)
    for place, count in enumerate(output_size, start=first):
        x = _average_parts(x, place, part_bounds(self.shape[place], count))
    return x.astype(self.dtype)


def _largest_of_parts(
    x: Array, places: Array, place: int, parts: list[tuple[int, int]]
) -> tuple[Array, Array]:
    """Return the largest element of each part of an axis, and the element of ``places`` beside it."""
    low, high = np.array(parts, np.int32).reshape(-1, 2).T
    longest = max((high - low).tolist(), default=1)
    # A shorter part repeats its last element.
    members = np.minimum(low[:, None] + np.arange(longest), high[:, None] - 1)
    candidates = [jnp.take(array, members, place) for array in (x, places)]
    winner = jnp.argmax(candidates[0], place + 1, keepdims=True)
    values, chosen = (jnp.take_along_axis(array, winner, place + 1) for array in candidates)
    return values.squeeze(place + 1), chosen.squeeze(place + 1)


def part_bounds(size: int, count: int) -> list[tuple[int, int]]:
    """Return the bounds of the parts of an axis in adaptive pooling."""
    if count > _MOST_PARTS:
        raise ValueError(f"output_size must be at most {_MOST_PARTS:,}, got {count}")
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _average_parts(x: Array, place: int, parts: list[tuple[int, int]]) -> Array:
    means = [
        jnp.mean(lax.slice_in_dim(x, low, high, axis=place), place, keepdims=True) for low, high in parts
    ]
    return jnp.concatenate(means, place) if means else lax.slice_in_dim(x, 0, 0, axis=place)
