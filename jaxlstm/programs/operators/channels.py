"""Channels rearranged, among themselves or into the image axes: (..., C, H, W)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.registry import register_operator


def _require_divisible(size: int, divisor: int, what: str) -> None:
    if divisor < 1 or size % divisor:
        raise ValueError(f"{what} must be a multiple of {divisor}, a positive number; got {size}")


@register_operator("aten.pixel_shuffle.default")
def pixel_shuffle(self: Array, upscale_factor: int) -> Array:
    """Move groups of ``upscale_factor ** 2`` channels into the pixels of a larger image."""
    *batch, channels, height, width = self.shape
    factor, start = upscale_factor, len(batch)
    _require_divisible(channels, factor**2, "the number of channels")
    split = self.reshape(*batch, channels // factor**2, factor, factor, height, width)
    order = (start, start + 3, start + 1, start + 4, start + 2)
    merged = (*batch, channels // factor**2, height * factor, width * factor)
    return jnp.transpose(split, (*range(start), *order)).reshape(merged)


@register_operator("aten.pixel_unshuffle.default")
def pixel_unshuffle(self: Array, downscale_factor: int) -> Array:
    """Move squares of pixels into channels: the inverse of :func:`pixel_shuffle`."""
    *batch, channels, height, width = self.shape
    factor, start = downscale_factor, len(batch)
    _require_divisible(height, factor, "the height")
    _require_divisible(width, factor, "the width")
    split = self.reshape(*batch, channels, height // factor, factor, width // factor, factor)
    order = (start, start + 2, start + 4, start + 1, start + 3)
    merged = (*batch, channels * factor**2, height // factor, width // factor)
    return jnp.transpose(split, (*range(start), *order)).reshape(merged)


@register_operator("aten.channel_shuffle.default")
def channel_shuffle(self: Array, groups: int) -> Array:
    """Reorder channels (N, C, ...) so that each group's first channels come first."""
    batch, channels, *rest = self.shape
    _require_divisible(channels, groups, "the number of channels")
    split = self.reshape(batch, groups, channels // groups, *rest)
    return jnp.swapaxes(split, 1, 2).reshape(self.shape)
