"""Images of another size, and images at the places of a grid, as in spatial transformers.

A place has a coordinate for each axis of the image, the last axis first. -1 and 1 are the centres of the
first and the last element with ``align_corners``, else their outer edges.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.linear_algebra import product
from jaxlstm.programs.operators.registry import Options, register_layouts, register_operator
from jaxlstm.programs.sizes.guards import equal

Scales = Sequence[float | None]
# (array, axis, places of the outputs on the axis) -> the array with the outputs on the axis
Kernel = Callable[[Array, int, np.ndarray], Array]
# (channels are last, array, sizes, scales, align_corners) -> the array in these sizes
Resample = Callable[[bool, Array, Sequence[int], Scales, bool], Array]


def _to_size(
    resample: Resample,
    last: bool,
    self: Array,
    output_size: Sequence[int],
    align_corners: bool = False,
    **scales: Any,
) -> Array:
    # The schemas name the scales `scales` in one dimension, else scales_d, scales_h and scales_w.
    letters = "dhw"[-len(output_size) :]
    in_order = [scales.get("scales", scales.get(f"scales_{letter}")) for letter in letters]
    return resample(last, self, output_size, in_order, align_corners)


def _to_size_or_by_factors(
    resample: Resample,
    last: bool,
    input: Array,
    output_size: Sequence[int] | None,
    align_corners: bool = False,
    scale_factors: Sequence[float] | None = None,
) -> Array:
    if output_size:
        return resample(last, input, output_size, [None] * len(output_size), align_corners)
    assert scale_factors is not None, "interpolation needs sizes or factors"
    input_sizes = input.shape[input.ndim - len(scale_factors) - last :][: len(scale_factors)]
    sizes = [math.floor(size * factor) for size, factor in zip(input_sizes, scale_factors, strict=True)]
    return resample(last, input, sizes, scale_factors, align_corners)


def _step(size: int, target: int, scale: float | None) -> float:
    """Return the distance of two outputs on the input axis."""
    return 1 / scale if scale else size / target


def _nearest(
    offset: float, last: bool, x: Array, sizes: Sequence[int], scales: Scales, align_corners: bool
) -> Array:
    first = x.ndim - len(sizes) - last
    for place, (target, scale) in enumerate(zip(sizes, scales, strict=True), start=first):
        size = x.shape[place]
        step = np.float32(_step(size, target, scale))
        steps = (np.arange(target, dtype=np.float32) + np.float32(offset)) * step
        x = jnp.take(x, np.minimum(np.floor(steps).astype(np.int32), size - 1), axis=place)
    return x


def _smooth(
    kernel: Kernel, last: bool, x: Array, sizes: Sequence[int], scales: Scales, align_corners: bool
) -> Array:
    """Interpolate along each axis from the neighbours of each output."""
    y = x.astype(gate_dtype(x.dtype))
    first = x.ndim - len(sizes) - last
    for place, (target, scale) in enumerate(zip(sizes, scales, strict=True), start=first):
        y = kernel(y, place, _positions(y.dtype, x.shape[place], target, scale, align_corners))
    return y.astype(x.dtype)


def _positions(
    dtype: np.dtype, size: int, target: int, scale: float | None, align_corners: bool
) -> np.ndarray:
    """Return the place of each output on the input axis, computed in the dtype of the tensor as in torch."""
    outputs = np.arange(target, dtype=dtype)
    if align_corners:
        return outputs * outputs.dtype.type((size - 1) / (target - 1) if target > 1 else 0)
    step = outputs.dtype.type(_step(size, target, scale))
    half = outputs.dtype.type(0.5)
    return (outputs + half) * step - half


def _linear(x: Array, place: int, positions: np.ndarray) -> Array:
    size = x.shape[place]
    positions = np.maximum(positions, 0)
    low = np.minimum(positions.astype(np.int32), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = _along(x, place, positions - low)
    return jnp.take(x, low, axis=place) * (1 - weight) + jnp.take(x, high, axis=place) * weight


def _cubic(x: Array, place: int, positions: np.ndarray) -> Array:
    """Interpolate from four neighbours; beyond the border, the border repeats."""
    size = x.shape[place]
    low = np.minimum(np.floor(positions).astype(np.int32), size - 1)
    fraction = np.clip(positions - low, 0, 1).astype(x.dtype)
    neighbours = (
        jnp.take(x, np.clip(low + step, 0, size - 1), axis=place) * _along(x, place, weight)
        for step, weight in zip((-1, 0, 1, 2), _cubic_weights(fraction), strict=True)
    )
    return reduce(jnp.add, neighbours)


def _cubic_weights(offset: Any) -> tuple[Any, ...]:
    """Return the weights of the four neighbours of a place, an array of NumPy or JAX, after the second."""
    a = -0.75  # torch's parameter of the cubic convolution
    near = (((a + 2) * distance - (a + 3)) * distance * distance + 1 for distance in (offset, 1 - offset))
    first, last = (((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + offset, 2 - offset))
    return first, *near, last


def _along(x: Array, place: int, weights: np.ndarray) -> Any:
    """Return weights for a product along an axis."""
    return weights.reshape(-1, *((1,) * (x.ndim - 1 - place))).astype(x.dtype)


_METHODS: dict[str, Resample] = {
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d": partial(_nearest, 0.0),
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d": partial(_nearest, 0.5),
    "upsample_linear1d upsample_bilinear2d upsample_trilinear3d": partial(_smooth, _linear),
    "upsample_bicubic2d": partial(_smooth, _cubic),
}
for _names, _method in _METHODS.items():
    register_layouts(*(f"aten.{name}.default" for name in _names.split()))(partial(_to_size, _method))
    _by_factors = partial(_to_size_or_by_factors, _method)
    register_layouts(*(f"aten.{name}.vec" for name in _names.split()))(_by_factors)


_BILINEAR, _NEAREST, _BICUBIC = 0, 1, 2
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2


class _Neighbour(NamedTuple):
    """An element of one axis for each place, its index as a float, and its weight."""

    element: Array
    weight: Array


@register_operator(*(f"aten.grid_sampler{suffix}.default" for suffix in ("", "_2d", "_3d")))
def grid_sampler(
    input: Array, grid: Array, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Array:
    """Return an image (N, C, ...) at the places (N, ..., axes) of a grid, (N, C, ...)."""
    _require_grid(input, grid, interpolation_mode)
    wide_dtype = gate_dtype(input.dtype)
    by_axis = []
    for size, coordinate in zip(input.shape[2:], jnp.moveaxis(grid, -1, 0)[::-1], strict=True):
        padded = partial(_padded, size=size, padding_mode=padding_mode, align_corners=align_corners)
        place = _place(coordinate.astype(wide_dtype), size, align_corners)
        by_axis.append(_neighbours(place, padded, interpolation_mode))
    image = input.astype(wide_dtype)
    terms = (_weighted(image, neighbours) for neighbours in itertools.product(*by_axis))
    return reduce(jnp.add, terms).astype(input.dtype)


def _require_grid(image: Array, grid: Array, interpolation_mode: int) -> None:
    axes = image.ndim - 2
    if (
        axes not in (2, 3)
        or grid.ndim != image.ndim
        or (*grid.shape[:1], *grid.shape[-1:]) != (image.shape[0], axes)
    ):
        raise ValueError(
            "grid_sample needs an image (N, C, H, W) and a grid (N, H, W, 2), or an image (N, C, D, H, W) "
            f"and a grid (N, D, H, W, 3); got shapes {image.shape} and {grid.shape}"
        )
    if 0 in image.shape[2:]:
        raise ValueError(f"grid_sample needs an image with elements, got shape {image.shape}")
    if interpolation_mode == _BICUBIC and axes == 3:
        raise ValueError("bicubic interpolation needs an image (N, C, H, W), got one with three axes")


def _place(coordinate: Array, size: int, align_corners: bool) -> Array:
    """Return the place of a coordinate on an axis, in elements from the centre of the first one."""
    if align_corners:
        return (coordinate + 1) * ((size - 1) / 2)
    return (coordinate + 1) * (size / 2) - 0.5


def _neighbours(place: Array, padded: partial[Array], interpolation_mode: int) -> list[_Neighbour]:
    """Return the elements of an axis that the interpolation adds up, with their weights."""
    if interpolation_mode == _BICUBIC:
        low = jnp.floor(place)
        pairs = zip((-1, 0, 1, 2), _cubic_weights(place - low), strict=True)
        return [_Neighbour(padded(low + step), weight) for step, weight in pairs]
    place = padded(place)
    if interpolation_mode == _NEAREST:
        return [_Neighbour(jnp.round(place), jnp.ones_like(place))]
    low = jnp.floor(place)
    return [_Neighbour(low, 1 - (place - low)), _Neighbour(low + 1, place - low)]


def _padded(place: Array, size: int, padding_mode: int, align_corners: bool) -> Array:
    """Return places within an axis, for a padding with zeros unchanged. Clamped places have no gradient."""
    if padding_mode == _ZEROS:
        return place
    if padding_mode == _REFLECTION:
        place = _reflected(place, 0, size - 1) if align_corners else _reflected(place, -0.5, size - 0.5)
    is_inside = (place > 0) & (place < size - 1)
    return jnp.where(is_inside, place, jax.lax.stop_gradient(jnp.clip(place, 0, size - 1)))


def _reflected(place: Array, low: float, high: float) -> Array:
    """Return places reflected at two borders until they are between them."""
    span = high - low
    if equal(span, 0):
        return jnp.zeros_like(place)
    distance = jnp.where(place < low, low - place, place - low)
    remainder = jnp.fmod(distance, span)
    is_even = jnp.floor(distance / span) % 2 == 0
    return jnp.where(is_even, remainder, span - remainder) + low


def _weighted(image: Array, neighbours: Sequence[_Neighbour]) -> Array:
    """Return one element for each place times its weight; 0 outside of the image."""
    batch, channels, *sizes = image.shape
    shape = neighbours[0].element.shape[1:]
    inside = [(n.element >= 0) & (n.element < size) for n, size in zip(neighbours, sizes, strict=True)]
    is_inside = reduce(jnp.logical_and, inside)
    indices = tuple(jnp.where(is_inside, n.element, 0).astype(jnp.int32) for n in neighbours)
    flat = jnp.ravel_multi_index(indices, tuple(sizes), mode="clip")
    # Rows of channels: one look-up for each place.
    elements = jax.vmap(lambda x, index: x.at[index].get(mode="promise_in_bounds"))(
        jnp.moveaxis(image.reshape(batch, channels, -1), 1, 2), flat.reshape(batch, -1)
    )
    weight = reduce(jnp.multiply, (neighbour.weight for neighbour in neighbours))
    weighted = jnp.where(is_inside.reshape(batch, -1, 1), elements, 0) * weight.reshape(batch, -1, 1)
    return jnp.moveaxis(weighted, 1, 2).reshape(batch, channels, *shape)


@register_operator("aten.affine_grid_generator.default")
def affine_grid_generator(
    theta: Array, size: Sequence[int], align_corners: bool, *, options: Options
) -> Array:
    """Return the grid (N, ..., axes) of affine maps (N, axes, axes + 1) for images of a size (N, C, ...)."""
    _, _, *sizes = size
    axes = len(sizes)
    if axes not in (2, 3) or theta.shape != (size[0], axes, axes + 1):
        raise ValueError(
            "affine_grid needs theta (N, 2, 3) for a size (N, C, H, W), or (N, 3, 4) for (N, C, D, H, W); "
            f"got shape {theta.shape} and size {tuple(size)}"
        )
    coordinates = [_centres(length, align_corners) for length in sizes]
    places = [*np.meshgrid(*coordinates, indexing="ij")][::-1]
    points = np.stack([*places, np.ones(tuple(sizes))], -1).reshape(-1, axes + 1)
    grid = product(jnp.asarray(points, theta.dtype), jnp.swapaxes(theta, 1, 2), options)
    return grid.reshape(size[0], *sizes, axes)


def _centres(count: int, align_corners: bool) -> np.ndarray:
    """Return the coordinates of the elements of an axis."""
    if count <= 1:
        return np.zeros(count)
    centres = np.linspace(-1, 1, count)
    return centres if align_corners else centres * ((count - 1) / count)
