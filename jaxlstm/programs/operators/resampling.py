"""Interpolation to another size: nearest and linear in one, two and three dimensions, and bicubic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.registry import register_family

Scales = Sequence[float | None]
# (array, axis, places of the outputs on the axis) -> the array with the outputs on the axis
Kernel = Callable[[Array, int, np.ndarray], Array]
# (array, sizes, scales, align_corners) -> the array in these sizes
Resample = Callable[[Array, Sequence[int], Scales, bool], Array]


def _to_size(
    resample: Resample, self: Array, output_size: Sequence[int], align_corners: bool = False, **scales: Any
) -> Array:
    # The schemas name the scales `scales` in one dimension, else scales_d, scales_h and scales_w.
    letters = "dhw"[-len(output_size) :]
    in_order = [scales.get("scales", scales.get(f"scales_{letter}")) for letter in letters]
    return resample(self, output_size, in_order, align_corners)


def _to_size_or_by_factors(
    resample: Resample,
    input: Array,
    output_size: Sequence[int] | None,
    align_corners: bool = False,
    scale_factors: Sequence[float] | None = None,
) -> Array:
    if output_size:
        return resample(input, output_size, [None] * len(output_size), align_corners)
    assert scale_factors is not None, "interpolation needs sizes or factors"
    last = input.shape[-len(scale_factors) :]
    sizes = [math.floor(size * factor) for size, factor in zip(last, scale_factors, strict=True)]
    return resample(input, sizes, scale_factors, align_corners)


def _step(size: int, target: int, scale: float | None) -> float:
    """Return the distance of two outputs on the input axis."""
    return 1 / scale if scale else size / target


def _nearest(offset: float, x: Array, sizes: Sequence[int], scales: Scales, align_corners: bool) -> Array:
    first = x.ndim - len(sizes)
    for place, (target, scale) in enumerate(zip(sizes, scales, strict=True), start=first):
        size = x.shape[place]
        step = np.float32(_step(size, target, scale))
        steps = (np.arange(target, dtype=np.float32) + np.float32(offset)) * step
        x = jnp.take(x, np.minimum(np.floor(steps).astype(np.int32), size - 1), axis=place)
    return x


def _smooth(kernel: Kernel, x: Array, sizes: Sequence[int], scales: Scales, align_corners: bool) -> Array:
    """Interpolate along each axis from the neighbours of each output."""
    y = x.astype(gate_dtype(x.dtype))
    first = x.ndim - len(sizes)
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


_CUBIC_SLOPE = -0.75  # torch's parameter of the cubic convolution


def _cubic(x: Array, place: int, positions: np.ndarray) -> Array:
    """Interpolate from four neighbours; beyond the border, the border repeats."""
    size = x.shape[place]
    low = np.minimum(np.floor(positions).astype(np.int32), size - 1)
    fraction = np.clip(positions - low, 0, 1).astype(x.dtype)
    weights = cubic_far(1 + fraction), cubic_near(fraction), cubic_near(1 - fraction), cubic_far(2 - fraction)
    neighbours = (
        jnp.take(x, np.clip(low + step, 0, size - 1), axis=place) * _along(x, place, weight)
        for step, weight in zip((-1, 0, 1, 2), weights, strict=True)
    )
    return reduce(jnp.add, neighbours)


def cubic_near(distance: Any) -> Any:
    """Return the weight of a neighbour at a distance of at most 1, for an array of NumPy or JAX."""
    a = _CUBIC_SLOPE
    return ((a + 2) * distance - (a + 3)) * distance * distance + 1


def cubic_far(distance: Any) -> Any:
    """Return the weight of a neighbour at a distance from 1 to 2."""
    a = _CUBIC_SLOPE
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a


def _along(x: Array, place: int, weights: np.ndarray) -> Any:
    """Return weights for a product along an axis."""
    return weights.reshape(-1, *((1,) * (x.ndim - 1 - place))).astype(x.dtype)


_METHODS: dict[str, Resample] = {
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d": partial(_nearest, 0.0),
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d": partial(_nearest, 0.5),
    "upsample_linear1d upsample_bilinear2d upsample_trilinear3d": partial(_smooth, _linear),
    "upsample_bicubic2d": partial(_smooth, _cubic),
}
register_family(_to_size, _METHODS)
register_family(_to_size_or_by_factors, _METHODS, "vec")
