"""Pooling over one, two or three spatial axes, for (N, C, *size) or (C, *size)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlstm.models.operators.axes import repeated
from jaxlstm.models.operators.dtypes import held, is_float
from jaxlstm.models.operators.registry import register_operator
from jaxlstm.precision import gate_dtype

Ints = int | Sequence[int]

# Each part is an operation of its own. Without a bound, a number in a file could fill the memory.
_MOST_PARTS = 1 << 16


def _register_max_pool(n: int) -> None:
    @register_operator(f"aten.max_pool{n}d.default")
    def max_pool(
        self: jax.Array,
        kernel_size: Ints,
        stride: Ints = (),
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> jax.Array:
        windows = _Windows(self, n, kernel_size, stride, padding, dilation, ceil_mode)
        if max(windows.dilation) > 1:
            # XLA's pooling has no gradient for a dilated window.
            return windows.largest(self)[0]
        return windows.reduce(self, lax.max, _lowest(self.dtype))

    @register_operator(f"aten.max_pool{n}d_with_indices.default")
    def max_pool_with_indices(
        self: jax.Array,
        kernel_size: Ints,
        stride: Ints = (),
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        return _Windows(self, n, kernel_size, stride, padding, dilation, ceil_mode).largest(self)


def _lowest(dtype: Any) -> np.ndarray:
    return np.asarray(-np.inf if is_float(dtype) else np.iinfo(dtype).min, dtype)


def _register_avg_pool(n: int) -> None:
    @register_operator(f"aten.avg_pool{n}d.default")
    def avg_pool(
        self: jax.Array,
        kernel_size: Ints,
        stride: Ints = (),
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> jax.Array:
        windows = _Windows(self, n, kernel_size, stride, padding, 1, ceil_mode)
        wide = self.astype(gate_dtype(self.dtype))
        sums = windows.reduce(wide, lax.add, np.zeros((), wide.dtype))
        if divisor_override is not None:
            return (sums / divisor_override).astype(self.dtype)
        return (sums / windows.counts(count_include_pad).astype(wide.dtype)).astype(self.dtype)


for _n in (1, 2, 3):
    _register_max_pool(_n)
    _register_avg_pool(_n)


class _Windows:
    """The windows of a pooling, with torch's rule for ``ceil_mode``.

    With ``ceil_mode`` the last window may reach beyond the padded input. It is dropped if it would start in
    the padding after the input.
    """

    def __init__(
        self,
        x: jax.Array,
        n: int,
        kernel_size: Ints,
        stride: Ints,
        padding: Ints,
        dilation: Ints,
        ceil_mode: bool,
    ) -> None:
        self.sizes = x.shape[-n:]
        self.kernel = repeated(kernel_size, n)
        self.stride = repeated(stride, n, default=self.kernel)
        self.padding = repeated(padding, n)
        self.dilation = repeated(dilation, n)
        self.extra = tuple(self._extra(place, ceil_mode) for place in range(n))

    def _extra(self, place: int, ceil_mode: bool) -> int:
        """Return the padding that ``ceil_mode`` adds after an axis."""
        size, pad, step = self.sizes[place], self.padding[place], self.stride[place]
        room = size + 2 * pad - self.dilation[place] * (self.kernel[place] - 1) - 1
        if pad * 2 > self.kernel[place]:
            raise ValueError(
                f"padding must be at most half of the kernel size {self.kernel[place]}, got {pad}"
            )
        if room < 0 and not (ceil_mode and -room < step):
            raise ValueError(f"a window of {self.kernel[place]} does not fit into an axis of size {size}")
        if not ceil_mode:
            return 0
        count = -(-room // step) + 1
        if (count - 1) * step >= size + pad:
            count -= 1
        return (count - 1) * step - room

    def reduce(self, x: jax.Array, function: Any, start: Any) -> jax.Array:
        """Reduce each window."""
        other = (1,) * (x.ndim - len(self.kernel))
        pads = [(0, 0)] * len(other) + [(p, p + e) for p, e in zip(self.padding, self.extra, strict=True)]
        return lax.reduce_window(
            x,
            start,
            function,
            (*other, *self.kernel),
            (*other, *self.stride),
            pads,
            None,
            (*other, *self.dilation),
        )

    def largest(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the largest element of each window, the first of equal ones, and its flat index in ``x``."""
        n = len(self.kernel)
        pads = [(0, 0, 0)] * (x.ndim - n) + [
            (pad, pad + extra, 0) for pad, extra in zip(self.padding, self.extra, strict=True)
        ]
        padded = lax.pad(x, jnp.asarray(_lowest(x.dtype)), pads)
        places = np.arange(math.prod(self.sizes)).reshape(self.sizes)
        places = np.pad(places, [pad[:2] for pad in pads[x.ndim - n :]])
        offsets = list(itertools.product(*map(range, self.kernel)))
        candidates = jnp.stack([self._at_offset(padded, offset) for offset in offsets], -1)
        indices = np.stack([self._at_offset(places, offset) for offset in offsets], -1)
        winner = jnp.argmax(candidates, -1, keepdims=True)
        values = jnp.take_along_axis(candidates, winner, -1).squeeze(-1)
        chosen = jnp.take_along_axis(jnp.broadcast_to(indices, candidates.shape), winner, -1).squeeze(-1)
        return values, chosen.astype(held("int64"))

    def _at_offset(self, x: Any, offset: Sequence[int]) -> Any:
        """Return the element at an offset in each window of a padded array."""
        index: list[slice] = []
        for place, start in enumerate(offset):
            size = x.shape[x.ndim - len(offset) + place]
            reach = self.dilation[place] * (self.kernel[place] - 1)
            first = start * self.dilation[place]
            index.append(slice(first, first + size - reach, self.stride[place]))
        return x[(..., *index)]

    def counts(self, include_pad: bool) -> jax.Array:
        """Return the number of elements of each window, padding included or not.

        The elements that ``ceil_mode`` adds beyond the padding never count.
        """
        counts = np.ones((), int)
        for place, size in enumerate(self.sizes):
            pad, step, length = self.padding[place], self.stride[place], self.kernel[place]
            total = size + 2 * pad + self.extra[place]
            starts = np.arange(0, total - length + 1, step) - pad
            ends = np.minimum(starts + length, size + pad)
            if not include_pad:
                starts, ends = np.maximum(starts, 0), np.minimum(ends, size)
            counts = counts[..., None] * (ends - starts)
        return jnp.asarray(counts)


@register_operator(*(f"aten.adaptive_avg_pool{n}d.default" for n in (1, 2, 3)))
def adaptive_avg_pool(self: jax.Array, output_size: Sequence[int]) -> jax.Array:
    """Average windows that divide each axis into ``output_size`` parts; parts may overlap by one element."""
    x = self.astype(gate_dtype(self.dtype))
    first = self.ndim - len(output_size)
    for place, count in enumerate(output_size, start=first):
        x = _average_parts(x, place, part_bounds(self.shape[place], count))
    return x.astype(self.dtype)


def part_bounds(size: int, count: int) -> list[tuple[int, int]]:
    """Return the bounds of the parts of an axis in adaptive pooling."""
    if count > _MOST_PARTS:
        raise ValueError(f"output_size must be at most {_MOST_PARTS:,}, got {count}")
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _average_parts(x: jax.Array, place: int, parts: list[tuple[int, int]]) -> jax.Array:
    means = [
        jnp.mean(lax.slice_in_dim(x, low, high, axis=place), place, keepdims=True) for low, high in parts
    ]
    return jnp.concatenate(means, place) if means else lax.slice_in_dim(x, 0, 0, axis=place)
