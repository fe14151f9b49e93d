"""Pooling over one, two or three spatial axes, for (N, C, *size) or (C, *size), and its windows."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.dtypes import held, is_float
from jaxlstm.programs.operators.registry import register_family, register_layouts, register_operator

Ints = int | Sequence[int]
Function = Callable[[Array, Array], Array]

# Each slice is a separate operation, and the time to compile grows with their number.
_MOST_SLICES = 16


class Windows:
    """The windows of a pooling, with torch's rule for ``ceil_mode``.

    With ``ceil_mode`` the last window may reach beyond the padded input. It is dropped if it would start in
    the padding after the input.
    """

    def __init__(
        self,
        last: bool,
        x: Array,
        n: int,
        kernel_size: Ints,
        stride: Ints,
        padding: Ints,
        dilation: Ints,
        ceil_mode: bool,
    ) -> None:
        # Axes after the spatial ones: the channels or none.
        self.after = (slice(None),) * last
        self.sizes = x.shape[x.ndim - n - last : x.ndim - last]
        self.kernel = repeated(kernel_size, n)
        self.stride = repeated(stride, n, default=self.kernel)
        self.padding = repeated(padding, n)
        self.dilation = repeated(dilation, n)
        self.extra = tuple(self._extra(place, ceil_mode) for place in range(n))

    def _extra(self, place: int, ceil_mode: bool) -> int:
        """Return the padding that ``ceil_mode`` adds after an axis."""
        size, pad, step = self.sizes[place], self.padding[place], self.stride[place]
        if min(self.kernel[place], step, self.dilation[place]) < 1:
            raise ValueError(
                "kernel_size, stride and dilation must be at least 1, got "
                f"{self.kernel[place]}, {step} and {self.dilation[place]}"
            )
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

    def largest(self, x: Array) -> Array:
        """Return the largest element of each window. The gradient goes to the first of equal ones."""
        return self._reduce(x, _lowest(x.dtype), lax.max, _larger)

    def sums(self, x: Array) -> Array:
        """Return the sum of each window."""
        return self._reduce(x, np.zeros((), x.dtype), lax.add, lax.add)

    def _reduce(self, x: Array, start: np.ndarray, function: Function, by_slices: Function) -> Array:
        """Reduce each window, axis by axis.

        On a CPU, XLA fuses the slices with the transposes around its convolutions, which have channels last.
        Its reduction of windows is slower and writes both layouts to memory.
        """
        # The gradient of XLA's reduction of windows does not support dilation.
        if max(self.dilation) == 1 and sum(self.kernel) > _MOST_SLICES:
            return self._reduce_window(x, start, function)
        x = lax.pad(x, jnp.asarray(start), [(low, high, 0) for low, high in self._pads(x.ndim)])
        for place in reversed(range(len(self.kernel))):
            index = (slice(None),) * (len(self.kernel) - place - 1) + self.after
            offsets = range(self.kernel[place])
            slices = [x[(..., self._slice(x, place, offset), *index)] for offset in offsets]
            x = functools.reduce(by_slices, slices)
        return x

    def _reduce_window(self, x: Array, start: np.ndarray, function: Function) -> Array:
        trailing = (1,) * len(self.after)
        leading = (1,) * (x.ndim - len(self.kernel) - len(trailing))
        shape, strides = (*leading, *self.kernel, *trailing), (*leading, *self.stride, *trailing)
        return lax.reduce_window(x, start, function, shape, strides, self._pads(x.ndim))

    def largest_with_indices(self, x: Array) -> tuple[Array, Array]:
        """Return the largest element of each window, the first of equal ones, and its flat index in ``x``."""
        n = len(self.kernel)
        pads = self._pads(x.ndim)
        padded = lax.pad(x, jnp.asarray(_lowest(x.dtype)), [(low, high, 0) for low, high in pads])
        places = np.arange(math.prod(self.sizes)).reshape(self.sizes)
        places = np.pad(places, pads[x.ndim - n :])
        offsets = list(itertools.product(*map(range, self.kernel)))
        candidates = jnp.stack([self._at_offset(padded, offset) for offset in offsets], -1)
        indices = np.stack([self._at_offset(places, offset) for offset in offsets], -1)
        winner = jnp.argmax(candidates, -1, keepdims=True)
        values = jnp.take_along_axis(candidates, winner, -1).squeeze(-1)
        index = jnp.take_along_axis(jnp.broadcast_to(indices, candidates.shape), winner, -1).squeeze(-1)
        return values, index.astype(held("int64"))

    def _pads(self, ndim: int) -> list[tuple[int, int]]:
        """Return the padding (before, after) of each axis of an array."""
        pads = [(pad, pad + extra) for pad, extra in zip(self.padding, self.extra, strict=True)]
        trailing = [(0, 0)] * len(self.after)
        return [(0, 0)] * (ndim - len(pads) - len(trailing)) + pads + trailing

    def _at_offset(self, x: Any, offset: Sequence[int]) -> Any:
        """Return the element at an offset in each window of a padded array."""
        return x[(..., *(self._slice(x, place, start) for place, start in enumerate(offset)))]

    def _slice(self, x: Any, place: int, offset: int) -> slice:
        """Return the slice of a spatial axis with the element at an offset in each window."""
        size = x.shape[x.ndim - len(self.kernel) - len(self.after) + place]
        first = offset * self.dilation[place]
        reach = self.dilation[place] * (self.kernel[place] - 1)
        return slice(first, first + size - reach, self.stride[place])

    def counts(self, include_pad: bool) -> Array:
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
        return jnp.asarray(counts[..., None] if self.after else counts)


def _lowest(dtype: Any) -> np.ndarray:
    return np.asarray(-np.inf if is_float(dtype) else np.iinfo(dtype).min, dtype)


def _larger(first: Array, second: Array) -> Array:
    """Return the larger element, the first of equal ones; NaN is larger than any number."""
    return jnp.where((second > first) | jnp.isnan(second), second, first)


# Each part is a separate operation. Without a bound, a number in a file could fill the memory.
_MOST_PARTS = 1 << 16


def _max_pool(
    largest: Callable[[Windows, Array], Any],
    n: int,
    last: bool,
    self: Array,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Any:
    """Return the largest element of each window, by a method of :class:`Windows`."""
    return largest(Windows(last, self, n, kernel_size, stride, padding, dilation, ceil_mode), self)


def _avg_pool(
    n: int,
    last: bool,
    self: Array,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    windows = Windows(last, self, n, kernel_size, stride, padding, 1, ceil_mode)
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
    _with_indices = functools.partial(_max_pool, Windows.largest_with_indices, _n, False)
    register_operator(f"aten.max_pool{_n}d_with_indices.default")(_with_indices)
    register_layouts(f"aten.max_pool{_n}d.default")(functools.partial(_max_pool, Windows.largest, _n))
    register_layouts(f"aten.avg_pool{_n}d.default")(functools.partial(_avg_pool, _n))
    register_family(_adaptive_max_pool, {f"adaptive_max_pool{_n}d": _n})


@register_layouts(*(f"aten.adaptive_avg_pool{n}d.default" for n in (1, 2, 3)))
def adaptive_avg_pool(last: bool, self: Array, output_size: Sequence[int]) -> Array:
    """Average windows that divide each axis into ``output_size`` parts; parts may overlap by one element."""
    x = self.astype(gate_dtype(self.dtype))
    first = self.ndim - len(output_size) - last
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
    values, their_places = (jnp.take_along_axis(array, winner, place + 1) for array in candidates)
    return values.squeeze(place + 1), their_places.squeeze(place + 1)


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
