"""Forms of convolutions with channels last that are faster on a CPU than XLA's convolution.

XLA's depthwise convolution takes 5 to 15 times as long as a sum of shifted products. Other convolutions with
groups take two to three times as long as one convolution for each group or for every four, and their
gradients a hundred times. Kernels of size 1 are matrix products, with gradients twice as fast. A small kernel
on images in colour is faster as patches times weights, and so is any kernel at few positions, where XLA
spends most of the time on the order of the weights. For one channel, XLA's own form is the fastest.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.layer.precision import gate_dtype

# Each product is a separate operation, and the time to compile grows with their number.
_MOST_PRODUCTS = 64
_MOST_CONVOLUTIONS = 8
_MOST_MERGED = 4
_LONGEST_KERNEL = 9

Pads = Sequence[tuple[int, int]]


class Geometry(NamedTuple):
    """How the windows of a convolution lie: one number, or (before, after), for each spatial axis."""

    stride: Sequence[int]
    pads: Pads
    dilation: Sequence[int]

    def counts(self, size: Sequence[Any], kernel: Sequence[int]) -> list[Any]:
        """Return the number of windows along each axis; symbolic with the symbolic sizes of jax.export."""
        axes = zip(size, kernel, *self, strict=True)
        return [(n + sum(pads) - d * (k - 1) - 1) // stride + 1 for n, k, stride, pads, d in axes]


Form = Callable[[Array, Array], Array]
"""(images (N, *size, C), weight (O, C / groups, *kernel)) -> images (N, *size, O)"""


def convolve(
    x: Array, weight: Array, geometry: Geometry, groups: int, precision: Any, plain: Callable[[int], Form]
) -> Array:
    """Convolve x (N, *size, C) and weight (O, C / groups, *kernel), on a CPU in the fastest form."""
    fast = _form_on_cpu(x, weight, geometry, groups, precision, plain)
    if fast is None:
        return plain(groups)(x, weight)
    return lax.platform_dependent(x, weight, cpu=fast, default=plain(groups))


def convolve_in_flax(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Pads,
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: lax.ConvDimensionNumbers,
    feature_group_count: int,
    precision: Any = None,
    **others: Any,
) -> Array:
    """Convolve images (N, *size, C) with (*kernel, C / groups, O), as ``flax.nnx.Conv`` calls it."""
    xla = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        precision=precision,
        **others,
    )
    if max(lhs_dilation) > 1 or any(value is not None for value in others.values()):
        settings = {"dimension_numbers": dimension_numbers, "feature_group_count": feature_group_count}
        return xla(lhs, rhs, padding=padding, **settings)
    if isinstance(padding, str):
        windows = [d * (k - 1) + 1 for k, d in zip(rhs.shape[:-2], rhs_dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], windows, window_strides, padding)
    numbers = dimension_numbers._replace(rhs_spec=tuple(range(rhs.ndim)))

    def plain(groups: int) -> Form:
        return partial(xla, padding=padding, dimension_numbers=numbers, feature_group_count=groups)

    weight = jnp.moveaxis(rhs, (-1, -2), (0, 1))  # (O, C / groups, *kernel)
    geometry = Geometry(window_strides, padding, rhs_dilation)
    return convolve(lhs, weight, geometry, feature_group_count, precision, plain)


def _form_on_cpu(
    x: Array, weight: Array, geometry: Geometry, groups: int, precision: Any, plain: Callable[[int], Form]
) -> Form | None:
    """Return the fastest form on a CPU, or None if that is XLA's convolution."""
    kernel = math.prod(weight.shape[2:])
    positions = [x.shape[0], *geometry.counts(x.shape[1:-1], weight.shape[2:])]
    is_static = all(isinstance(count, int) for count in positions)
    if not jnp.issubdtype(weight.dtype, jnp.floating) or (is_static and min(positions) < 1):
        return None
    # Bringing the weights in XLA's order takes longer than copying the patches.
    if groups == 1 and is_static and 2 * math.prod(positions) <= weight.shape[0]:
        if _is_framed(weight.shape, geometry):
            return partial(_frames_times_weights, geometry, precision)
        if kernel <= _MOST_PRODUCTS:
            return partial(_patches_times_weights, geometry, precision, True)
    if groups == 1 and (kernel == 1 or (x.shape[-1] == 3 and kernel <= _LONGEST_KERNEL)):
        return partial(_patches_times_weights, geometry, precision, False)
    if groups > 1 and weight.shape[1] == 1 and kernel <= _MOST_PRODUCTS:
        return partial(_sum_of_products, geometry)
    # The number of convolutions that replace one with groups.
    count = next(count for count in range(_MOST_CONVOLUTIONS, 0, -1) if groups % count == 0)
    if count > 1 and groups // count <= _MOST_MERGED:
        return partial(_group_by_group, count, plain(1))
    return None


def _is_framed(weight: Sequence[int], geometry: Geometry) -> bool:
    """Return True for frames of a signal of one channel, as in a Fourier transform, that overlap evenly."""
    one_axis = len(weight) == 3 and weight[1] == 1 and geometry.dilation[0] == 1
    return one_axis and weight[2] % geometry.stride[0] == 0


def _shifted(x: Array, kernel: Sequence[int], geometry: Geometry) -> Iterator[tuple[Sequence[int], Array]]:
    """Yield the place of each element of the kernel, and the images that it multiplies."""
    widths = [(0, 0, 0), *((before, after, 0) for before, after in geometry.pads)]
    x = lax.pad(x, jnp.zeros((), x.dtype), widths + [(0, 0, 0)] * (x.ndim - len(widths)))
    unpadded = geometry._replace(pads=((0, 0),) * len(kernel))
    counts = unpadded.counts(x.shape[1 : 1 + len(kernel)], kernel)
    for place in itertools.product(*map(range, kernel)):
        part = x
        for axis, (start, count) in enumerate(zip(place, counts, strict=True)):
            step, first = geometry.stride[axis], start * geometry.dilation[axis]
            part = lax.slice_in_dim(part, first, first + (count - 1) * step + 1, step, axis + 1)
        yield place, part


def _sum_of_products(geometry: Geometry, x: Array, weight: Array) -> Array:
    """Multiply the shifted images by one weight per channel, and add up."""
    outputs, _, *kernel = weight.shape
    channels, wide = x.shape[-1], gate_dtype(x.dtype)
    images, flat = x.astype(wide), weight.astype(wide).reshape(outputs, -1)
    # A transposition would become part of the loop over channels, which would read the weights with a stride.
    identity = jnp.eye(flat.shape[1], dtype=wide)
    weights = jnp.einsum("ok,kj->jo", flat, identity, precision="highest").reshape(*kernel, outputs)
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


def _patches_times_weights(
    geometry: Geometry, precision: Any, keeps_weights: bool, x: Array, weight: Array
) -> Array:
    """Multiply patches by weights; ``keeps_weights`` orders the elements of a patch as torch's weights."""
    outputs, _, *kernel = weight.shape
    parts = [images for _, images in _shifted(x, kernel, geometry)]
    if keeps_weights:
        patches = jnp.stack(parts, -1)
        patches = patches.reshape(*patches.shape[:-2], -1)
    else:
        patches, weight = jnp.concatenate(parts, -1), jnp.moveaxis(weight, 1, -1)
    return _product(patches, weight.reshape(outputs, -1), precision)


def _frames_times_weights(geometry: Geometry, precision: Any, x: Array, weight: Array) -> Array:
    (stride,), (pads,), length = geometry.stride, geometry.pads, weight.shape[2]
    x = lax.pad(x[..., 0], jnp.zeros((), x.dtype), [(0, 0, 0), (*pads, 0)])
    frames, blocks = (x.shape[1] - length) // stride + 1, length // stride
    pieces = x[:, : (frames + blocks - 1) * stride].reshape(len(x), -1, stride)
    overlapping = jnp.concatenate([pieces[:, start : start + frames] for start in range(blocks)], -1)
    return _product(overlapping, weight[:, 0], precision)


def _product(x: Array, weight: Array, precision: Any) -> Array:
    return jnp.einsum("...i,oi->...o", x, weight, precision=precision)
