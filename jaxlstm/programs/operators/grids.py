"""Sampling of images at places of a grid, as in spatial transformers.

A place has a coordinate for each axis of the image, the last axis first. -1 and 1 are the centres of the
first and the last element with ``align_corners``, else their outer edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.linear_algebra import product
from jaxlstm.programs.operators.registry import Options, register_operator
from jaxlstm.programs.operators.resampling import cubic_far, cubic_near

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
    wide = gate_dtype(input.dtype)
    by_axis = []
    for size, coordinate in zip(input.shape[2:], jnp.moveaxis(grid, -1, 0)[::-1], strict=True):
        padded = partial(_padded, size=size, padding_mode=padding_mode, align_corners=align_corners)
        place = _place(coordinate.astype(wide), size, align_corners)
        by_axis.append(_neighbours(place, padded, interpolation_mode))
    image = input.astype(wide)
    terms = (_weighted(image, neighbours) for neighbours in itertools.product(*by_axis))
    return reduce(jnp.add, terms).astype(input.dtype)


def _require_grid(image: Array, grid: Array, interpolation_mode: int) -> None:
    axes = image.ndim - 2
    if axes not in (2, 3) or grid.ndim != image.ndim or grid.shape[-1] != axes or len(grid) != len(image):
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
        after = place - low
        weights = cubic_far(1 + after), cubic_near(after), cubic_near(1 - after), cubic_far(2 - after)
        return [_Neighbour(padded(low + step), w) for step, w in zip((-1, 0, 1, 2), weights, strict=True)]
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
    if span == 0:
        return jnp.zeros_like(place)
    distance = jnp.where(place < low, low - place, place - low)
    rest = jnp.fmod(distance, span)
    is_even = jnp.floor(distance / span) % 2 == 0
    return jnp.where(is_even, rest, span - rest) + low


def _weighted(image: Array, neighbours: Sequence[_Neighbour]) -> Array:
    """Return one element for each place times its weight; 0 outside of the image."""
    batch, channels, *sizes = image.shape
    shape = neighbours[0].element.shape[1:]
    inside = [(n.element >= 0) & (n.element < size) for n, size in zip(neighbours, sizes, strict=True)]
    is_inside = reduce(jnp.logical_and, inside)
    indices = tuple(jnp.where(is_inside, n.element, 0).astype(jnp.int32) for n in neighbours)
    flat = jnp.ravel_multi_index(indices, tuple(sizes), mode="clip")
    # Rows of channels: one look-up for each place.
    rows = jnp.moveaxis(image.reshape(batch, channels, -1), 1, 2)
    taken = jax.vmap(lambda x, index: x.at[index].get(mode="promise_in_bounds"))(
        rows, flat.reshape(batch, -1)
    )
    weight = reduce(jnp.multiply, (neighbour.weight for neighbour in neighbours))
    weighted = jnp.where(is_inside.reshape(batch, -1, 1), taken, 0) * weight.reshape(batch, -1, 1)
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
