"""Patches of images, channels rearranged among themselves or into the image axes, and padding.

``im2col`` takes patches, ``col2im`` and ``overlap_add`` add them up. Negative widths of a padding crop.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.registry import register_family, register_operator

Ints = int | Sequence[int]


def overlap_add(parts: Array, step: int) -> Array:
    """Return the sum (..., size) of parts (..., count, length) that start ``step`` elements apart.

    Without a scatter, which is slow on a GPU and depends there on the order of the threads.
    """
    *batch, count, length = parts.shape
    blocks = -(-length // step)
    width = count + blocks - 1
    padding = [*((0, 0) for _ in batch), (0, blocks), (0, blocks * step - length)]
    rows = jnp.pad(parts, padding).reshape(*batch, width + 1, blocks, step)
    rows = jnp.swapaxes(rows, -3, -2).reshape(*batch, blocks * (width + 1), step)
    # Block k of a part belongs k blocks after its start. In rows that are one place shorter, row k is moved
    # by k places, and the places that it leaves hold the padding.
    shifted = rows[..., : blocks * width, :].reshape(*batch, blocks, width, step)
    return shifted.sum(-3).reshape(*batch, width * step)[..., : (count - 1) * step + length]


class _Axis:
    """The patches of one axis."""

    def __init__(self, size: int, kernel: int, dilation: int, padding: int, stride: int) -> None:
        if min(kernel, dilation, stride) < 1 or padding < 0:
            raise ValueError(
                "kernel_size, dilation and stride must be at least 1 and padding at least 0, got "
                f"{kernel}, {dilation}, {stride} and {padding}"
            )
        last_start = size + 2 * padding - dilation * (kernel - 1) - 1
        if last_start < 0:
            raise ValueError(f"a patch of {kernel} does not fit into an axis of size {size}")
        self.size, self.kernel, self.dilation, self.padding = size, kernel, dilation, padding
        self.stride, self.count = stride, last_start // stride + 1

    def places(self) -> np.ndarray:
        """Return the places of the elements of each patch on the padded axis, (kernel, count)."""
        return np.arange(self.kernel)[:, None] * self.dilation + np.arange(self.count) * self.stride

    def add_up(self, parts: Array) -> Array:
        """Return the sum (..., size) of the patches (..., count, kernel)."""
        none, zero = [(0, 0, 0)] * (parts.ndim - 1), jnp.zeros((), parts.dtype)
        total = overlap_add(jax.lax.pad(parts, zero, [*none, (0, 0, self.dilation - 1)]), self.stride)
        # Negative numbers crop the padding.
        after = self.size + self.padding - total.shape[-1]
        return jax.lax.pad(total, zero, [*none[1:], (-self.padding, after, 0)])


def _axes(sizes: Sequence[int], *settings: Ints) -> tuple[_Axis, _Axis]:
    first, second = zip(*(repeated(setting, 2) for setting in settings), strict=True)
    return _Axis(sizes[0], *first), _Axis(sizes[1], *second)


@register_operator("aten.im2col.default")
def im2col(self: Array, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Array:
    """Return the patches of an image (N, C, H, W) as columns (N, C * elements of a patch, patches)."""
    images = self if self.ndim == 4 else self[None]
    batch, channels, *sizes = images.shape
    rows, columns = _axes(sizes, kernel_size, dilation, padding, stride)
    widths = [(0, 0), (0, 0), (rows.padding,) * 2, (columns.padding,) * 2]
    patches = jnp.pad(images, widths)[:, :, rows.places()][..., columns.places()]
    shape = (batch, channels * rows.kernel * columns.kernel, rows.count * columns.count)
    flat = jnp.swapaxes(patches, 3, 4).reshape(shape)
    return flat if self.ndim == 4 else flat[0]


@register_operator("aten.col2im.default")
def col2im(
    self: Array, output_size: Ints, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Array:
    """Return the image (N, C, H, W) that is the sum of the patches in columns: the adjoint of ``im2col``."""
    columns_of_batch = self if self.ndim == 3 else self[None]
    rows, columns = _axes(repeated(output_size, 2), kernel_size, dilation, padding, stride)
    batch, length, count = columns_of_batch.shape
    elements = rows.kernel * columns.kernel
    if length % elements or count != rows.count * columns.count:
        raise ValueError(
            f"fold needs columns (N, C * {elements}, {rows.count * columns.count}) for these sizes, got "
            f"shape {self.shape}"
        )
    parts = columns_of_batch.reshape(
        batch, length // elements, rows.kernel, columns.kernel, rows.count, columns.count
    )
    by_rows = columns.add_up(jnp.transpose(parts, (0, 1, 2, 4, 5, 3)))
    images = rows.add_up(jnp.transpose(by_rows, (0, 1, 4, 3, 2)))
    images = jnp.swapaxes(images, 2, 3)
    return images if self.ndim == 3 else images[0]


def _require_divisible(size: int, divisor: int, quantity: str) -> None:
    if divisor < 1 or size % divisor:
        raise ValueError(f"{quantity} must be a multiple of {divisor}, a positive number; got {size}")


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


_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@register_operator("aten.pad.default", layout="pads")
def pad(self: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """Pad the last axes; ``pad`` lists (before, after) of the last axis first."""
    if mode == "constant":
        return constant_pad_nd(self, pad, value or 0)
    widths = _widths(self, pad)
    if mode == "circular":
        # torch wraps the image after cropping.
        self = _crop(self, widths)
        widths = [(max(before, 0), max(after, 0)) for before, after in widths]
    wider = [(max(before, 0), max(after, 0)) for before, after in widths]
    return _crop(jnp.pad(self, wider, mode=_MODES[mode]), widths)


@register_operator("aten.constant_pad_nd.default", layout="pads")
def constant_pad_nd(self: Array, pad: Sequence[int], value: float = 0) -> Array:
    """Pad the last axes with a number."""
    config = [(before, after, 0) for before, after in _widths(self, pad)]
    return jax.lax.pad(self, jnp.asarray(value, self.dtype), config)


def _pad_in_mode(mode: str, self: Array, padding: Sequence[int]) -> Array:
    return pad(self, padding, mode)


for _name, _mode in {"reflection": "reflect", "replication": "replicate"}.items():
    _names = " ".join(f"{_name}_pad{n}d" for n in (1, 2, 3))
    register_family(_pad_in_mode, {_names: _mode}, layout="pads")


def _widths(x: Array, padding: Sequence[int]) -> list[tuple[int, int]]:
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    for size, (before, after) in zip(x.shape, widths, strict=True):
        if size + before + after < 0:
            raise ValueError(f"padding ({before}, {after}) crops more than an axis of size {size} has")
    return widths


def _crop(x: Array, widths: Sequence[tuple[int, int]]) -> Array:
    config: Any = [(min(before, 0), min(after, 0), 0) for before, after in widths]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
