"""Interpolation to another size: nearest and linear in one, two and three dimensions, and bicubic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.registry import register_operator

Scales = Sequence[float | None]
# (array, axis, places of the outputs on the axis) -> the array with the outputs on the axis
Kernel = Callable[[jax.Array, int, np.ndarray], jax.Array]


def _register_nearest(n: int, name: str, offset: float) -> None:
    @register_operator(f"aten.{name}{n}d.vec")
    def by_sizes(
        input: jax.Array, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
    ) -> jax.Array:
        return _nearest(input, *_sizes_and_scales(input, n, output_size, scale_factors), offset)

    @register_operator(f"aten.{name}{n}d.default")
    def by_scales(self: jax.Array, output_size: Sequence[int], **scales: float | None) -> jax.Array:
        return _nearest(self, output_size, _in_order(scales, n), offset)


def _register_smooth(n: int, name: str, kernel: Kernel) -> None:
    @register_operator(f"aten.upsample_{name}{n}d.vec")
    def by_sizes(
        input: jax.Array,
        output_size: Sequence[int] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> jax.Array:
        sizes, scales = _sizes_and_scales(input, n, output_size, scale_factors)
        return _smooth(input, sizes, scales, align_corners, kernel)

    @register_operator(f"aten.upsample_{name}{n}d.default")
    def by_scales(
        self: jax.Array, output_size: Sequence[int], align_corners: bool, **scales: float | None
    ) -> jax.Array:
        return _smooth(self, output_size, _in_order(scales, n), align_corners, kernel)


def _in_order(scales: dict[str, float | None], n: int) -> Scales:
    """Return the scales, which the schemas name ``scales`` in one dimension, else scales_d, _h and _w."""
    return [scales.get("scales", scales.get(f"scales_{letter}")) for letter in "dhw"[3 - n :]]


def _sizes_and_scales(
    x: jax.Array, n: int, output_size: Sequence[int] | None, factors: Sequence[float] | None
) -> tuple[Sequence[int], Scales]:
    if output_size:
        return output_size, [None] * n
    assert factors is not None, "interpolation needs sizes or factors"
    return [math.floor(size * factor) for size, factor in zip(x.shape[-n:], factors, strict=True)], factors


def _step(size: int, target: int, scale: float | None) -> float:
    """Return the distance of two outputs on the input axis."""
    return 1 / scale if scale else size / target


def _nearest(x: jax.Array, sizes: Sequence[int], scales: Scales, offset: float) -> jax.Array:
    first = x.ndim - len(sizes)
    for place, (target, scale) in enumerate(zip(sizes, scales, strict=True), start=first):
        size = x.shape[place]
        steps = (np.arange(target, dtype=np.float32) + np.float32(offset)) * np.float32(
            _step(size, target, scale)
        )
        x = jnp.take(x, np.minimum(np.floor(steps).astype(np.int32), size - 1), axis=place)
    return x


def _smooth(
    x: jax.Array, sizes: Sequence[int], scales: Scales, align_corners: bool, kernel: Kernel
) -> jax.Array:
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


def _linear(x: jax.Array, place: int, positions: np.ndarray) -> jax.Array:
    size = x.shape[place]
    positions = np.maximum(positions, 0)
    low = np.minimum(positions.astype(np.int32), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = _along(x, place, positions - low)
    return jnp.take(x, low, axis=place) * (1 - weight) + jnp.take(x, high, axis=place) * weight


_CUBIC_SLOPE = -0.75  # torch's parameter of the cubic convolution


def _cubic(x: jax.Array, place: int, positions: np.ndarray) -> jax.Array:
    """Interpolate from four neighbours; beyond the border, the border repeats."""
    size = x.shape[place]
    low = np.minimum(np.floor(positions).astype(np.int32), size - 1)
    fraction = np.clip(positions - low, 0, 1).astype(x.dtype)
    weights = cubic_far(1 + fraction), cubic_near(fraction), cubic_near(1 - fraction), cubic_far(2 - fraction)
    neighbours = (
        jnp.take(x, np.clip(low + step, 0, size - 1), axis=place) * _along(x, place, weight)
        for step, weight in zip((-1, 0, 1, 2), weights, strict=True)
    )
    return functools.reduce(jnp.add, neighbours)


def cubic_near(distance: Any) -> Any:
    """Return the weight of a neighbour at a distance of at most 1, for an array of NumPy or JAX."""
    a = _CUBIC_SLOPE
    return ((a + 2) * distance - (a + 3)) * distance * distance + 1


def cubic_far(distance: Any) -> Any:
    """Return the weight of a neighbour at a distance from 1 to 2."""
    a = _CUBIC_SLOPE
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a


def _along(x: jax.Array, place: int, weights: np.ndarray) -> Any:
    """Return weights for a product along an axis."""
    return weights.reshape(-1, *((1,) * (x.ndim - 1 - place))).astype(x.dtype)


for _n, _name in ((1, "linear"), (2, "bilinear"), (3, "trilinear")):
    _register_nearest(_n, "upsample_nearest", 0.0)
    _register_nearest(_n, "_upsample_nearest_exact", 0.5)
    _register_smooth(_n, _name, _linear)
_register_smooth(2, "bicubic", _cubic)
