"""Forms of convolutions with channels last that are faster on a CPU than XLA's convolution.

XLA's depthwise convolution takes 5 to 15 times as long as a sum of shifted products. Other convolutions with
groups take two to three times as long as one convolution for each group or for every four, and their
gradients a hundred times. Kernels of size 1 are matrix products, with gradients twice as fast, and a small
kernel on images in colour is faster as patches times weights. For one channel, XLA's own form is the fastest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.layer.precision import gate_dtype

Pads = Sequence[tuple[int, int]]

# Each product is a separate operation, and the time to compile grows with their number.
_MOST_PRODUCTS = 64
_MOST_CONVOLUTIONS = 8
_MOST_MERGED = 4
_LONGEST_KERNEL = 9


class Geometry(NamedTuple):
    """How the windows of a convolution lie: one number, or (before, after), for each spatial axis."""

    stride: Sequence[int]
    pads: Pads
    dilation: Sequence[int]


Form = Callable[[Array, Array], Array]
"""(images (N, *size, C), weight (O, C / groups, *kernel)) -> images (N, *size, O)"""


def form_on_cpu(
    channels: int,
    weight: Array,
    geometry: Geometry,
    groups: int,
    precision: Any,
    plain: Callable[[int], Form],
) -> Form | None:
    """Return the fastest form of a convolution on a CPU, or None if that is XLA's convolution.

    Args:
      channels: number of channels of the images.
      weight: (O, C / groups, *kernel).
      geometry: the windows.
      groups: number of groups.
      precision: precision of products.
      plain: number of groups -> XLA's convolution.
    """
    kernel = math.prod(weight.shape[2:])
    if not jnp.issubdtype(weight.dtype, jnp.floating) or not channels or not weight.size:
        return None
    if groups == 1 and (kernel == 1 or (channels == 3 and kernel <= _LONGEST_KERNEL)):
        return partial(_patches_times_weights, geometry, precision)
    if groups > 1 and weight.shape[1] == 1 and kernel <= _MOST_PRODUCTS:
        return partial(_sum_of_products, geometry)
    count = _divisor(groups)
    if count > 1 and groups // count <= _MOST_MERGED:
        return partial(_group_by_group, count, plain(1))
    return None


def _divisor(groups: int) -> int:
    """Return the number of convolutions that replace one with groups."""
    return next(count for count in range(_MOST_CONVOLUTIONS, 0, -1) if groups % count == 0)


def _shifted(x: Array, kernel: Sequence[int], geometry: Geometry) -> Iterator[tuple[Sequence[int], Array]]:
    """Yield the place of each element of the kernel, and the images that it multiplies."""
    widths = [(0, 0, 0), *((before, after, 0) for before, after in geometry.pads)]
    x = lax.pad(x, jnp.zeros((), x.dtype), widths + [(0, 0, 0)] * (x.ndim - len(widths)))
    for place in itertools.product(*map(range, kernel)):
        part = x
        for axis, (start, size) in enumerate(zip(place, kernel, strict=True)):
            step, dilation = geometry.stride[axis], geometry.dilation[axis]
            first = start * dilation
            # With the symbolic sizes of jax.export, this expression equals that of XLA's convolution.
            count = (x.shape[axis + 1] - dilation * (size - 1) - 1) // step + 1
            part = lax.slice_in_dim(part, first, first + (count - 1) * step + 1, step, axis + 1)
        yield place, part


def _sum_of_products(geometry: Geometry, x: Array, weight: Array) -> Array:
    """Multiply the shifted images by one weight per channel, and add up."""
    outputs, _, *kernel = weight.shape
    channels, wide = x.shape[-1], gate_dtype(x.dtype)
    images, weights = x.astype(wide), jnp.moveaxis(weight[:, 0].astype(wide), 0, -1)
    if outputs > channels:
        images, weights = images[..., None], weights.reshape(*kernel, channels, -1)
    terms = (part * weights[place] for place, part in _shifted(images, kernel, geometry))
    y = reduce(jnp.add, terms)
    return y.reshape(*y.shape[: x.ndim - 1], outputs).astype(x.dtype)


def _group_by_group(count: int, convolve: Form, x: Array, weight: Array) -> Array:
    """Convolve ``count`` parts of the channels; several groups are one part, with zeros between them."""
    outputs, each, *kernel = weight.shape
    merged = x.shape[-1] // each // count
    blocks = weight.reshape(count, merged, -1, 1, each, *kernel)
    ones = jnp.eye(merged, dtype=weight.dtype).reshape(merged, 1, merged, *((1,) * (len(kernel) + 1)))
    weights = (blocks * ones).reshape(count, outputs // count, merged * each, *kernel)
    parts = zip(jnp.split(x, count, -1), weights, strict=True)
    return jnp.concatenate([convolve(images, kernels) for images, kernels in parts], -1)


def _patches_times_weights(geometry: Geometry, precision: Any, x: Array, weight: Array) -> Array:
    outputs, _, *kernel = weight.shape
    patches = jnp.concatenate([images for _, images in _shifted(x, kernel, geometry)], -1)
    matrix = jnp.moveaxis(weight, (0, 1), (-1, -2)).reshape(-1, outputs)
    y = jnp.dot(patches.reshape(-1, patches.shape[-1]), matrix, precision=precision)
    return y.reshape(*patches.shape[:-1], outputs)
