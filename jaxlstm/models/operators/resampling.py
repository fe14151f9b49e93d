"""Interpolation to another size: nearest and linear, in one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.models.operators.registry import register_operator
from jaxlstm.precision import gate_dtype

Scales = Sequence[float | None]


def _register_nearest(n: int, name: str, offset: float) -> None:
    @register_operator(f"aten.{name}{n}d.vec")
    def by_sizes(
        input: jax.Array, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
    ) -> jax.Array:
        return _nearest(input, *_sizes_and_scales(input, n, output_size, scale_factors), offset)

    @register_operator(f"aten.{name}{n}d.default")
    def by_scales(self: jax.Array, output_size: Sequence[int], **scales: float | None) -> jax.Array:
        return _nearest(self, output_size, _in_order(scales, n), offset)


def _register_linear(n: int, name: str) -> None:
    @register_operator(f"aten.upsample_{name}{n}d.vec")
    def by_sizes(
        input: jax.Array,
        output_size: Sequence[int] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> jax.Array:
        sizes, scales = _sizes_and_scales(input, n, output_size, scale_factors)
        return _linear(input, sizes, scales, align_corners)

    @register_operator(f"aten.upsample_{name}{n}d.default")
    def by_scales(
        self: jax.Array, output_size: Sequence[int], align_corners: bool, **scales: float | None
    ) -> jax.Array:
        return _linear(self, output_size, _in_order(scales, n), align_corners)


for _n, _name in ((1, "linear"), (2, "bilinear"), (3, "trilinear")):
    _register_nearest(_n, "upsample_nearest", 0.0)
    _register_nearest(_n, "_upsample_nearest_exact", 0.5)
    _register_linear(_n, _name)


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


def _linear(x: jax.Array, sizes: Sequence[int], scales: Scales, align_corners: bool) -> jax.Array:
    y = x.astype(gate_dtype(x.dtype))
    first = x.ndim - len(sizes)
    for place, (target, scale) in enumerate(zip(sizes, scales, strict=True), start=first):
        y = _interpolate(y, place, _positions(y.dtype, x.shape[place], target, scale, align_corners))
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
    return np.maximum((outputs + half) * step - half, 0)


def _interpolate(x: jax.Array, place: int, positions: np.ndarray) -> jax.Array:
    size = x.shape[place]
    low = np.minimum(positions.astype(np.int32), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight: Any = (positions - low).reshape(-1, *((1,) * (x.ndim - 1 - place))).astype(x.dtype)
    return jnp.take(x, low, axis=place) * (1 - weight) + jnp.take(x, high, axis=place) * weight
