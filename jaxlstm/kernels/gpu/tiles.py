"""Arrays in tiles: Triton knows only powers of two, so an axis of any size is cut, and its rest masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

GATES = 4


@dataclass(frozen=True)
class Tiles:
    """One axis of ``size`` elements, cut into ``count`` tiles of ``width``, a power of two."""

    size: int
    width: int

    @property
    def count(self) -> int:
        """How many tiles."""
        return pl.cdiv(self.size, self.width)

    @property
    def padded(self) -> int:
        """The size with the last tile filled up."""
        return self.count * self.width

    def at(self, tile: int) -> slice:
        """The slice of one tile of an axis that was filled up."""
        return slice(tile * self.width, (tile + 1) * self.width)

    def inside(self, tile: Any) -> jax.Array:
        """Bool (width,): which elements of a tile the axis has."""
        return tile * self.width + jnp.arange(self.width) < self.size

    def times(self, factor: int) -> Tiles:
        """The tiles of an axis on which each element stands ``factor`` times."""
        return Tiles(self.size * factor, self.width * factor)


def tiles(size: int, at_least: int, at_most: int) -> Tiles:
    """An axis in one tile if it is short, else in several of ``at_most``."""
    return Tiles(size, min(max(pl.next_power_of_2(size), at_least), at_most))


def load(ref: Any, *where: Any) -> jax.Array:
    """A tile of an array, zero outside it.

    Args:
      ref: the array.
      where: for each axis one index, or the :class:`Tiles` of the axis and the number of the tile, and where
        in the array the axis begins, if not at 0.
    """
    index, mask = _index_and_mask(where)
    return plgpu.load(ref.at[index], mask=mask, other=jnp.zeros((), ref.dtype))


def store(ref: Any, value: jax.Array, *where: Any) -> None:
    """What :func:`load` reads, written; nothing outside the array is."""
    index, mask = _index_and_mask(where)
    plgpu.store(ref.at[index], value.astype(ref.dtype), mask=mask)


def _index_and_mask(where: tuple) -> tuple[tuple, jax.Array]:
    cut = [at for at in where if isinstance(at, tuple)]
    mask = jnp.ones(tuple(axis.width for axis, *_ in cut), bool)
    for position, (axis, tile, *_) in enumerate(cut):
        shape = [1] * len(cut)
        shape[position] = axis.width
        mask = mask & axis.inside(tile).reshape(shape)
    return tuple(_slice(*at) if isinstance(at, tuple) else at for at in where), mask


def _slice(axis: Tiles, tile: Any, begin: int = 0) -> Any:
    # as an array: of a Python int JAX would check that nothing lies outside, which is what the mask is for
    return pl.ds(jnp.int32(begin + tile * axis.width), axis.width)


def where_valid(valid: Any, new: Any, old: Any) -> tuple:
    """The tiles ``new`` in the rows (R, 1) that are valid, ``old`` in the others."""
    if valid is None:
        return tuple(new)
    return tuple(jnp.where(valid, n, o) for n, o in zip(new, old, strict=True))


def or_zero(valid: Any, value: jax.Array) -> jax.Array:
    """A tile in the rows that are valid, zero in the others."""
    return value if valid is None else jnp.where(valid, value, jnp.zeros_like(value))


def by_unit(gates: jax.Array) -> jax.Array:
    """(4H, ...) in torch's order, all i, all f, all g, all o, to i, f, g, o of each unit: same shape.

    Then a tile of units has its four gates side by side, and one product gives them all.
    """
    units = gates.reshape(GATES, -1, *gates.shape[1:])
    return jnp.moveaxis(units, 0, 1).reshape(gates.shape)


def pack(weight: jax.Array, columns: Tiles, rows: Tiles) -> jax.Array:
    """A weight (out, in), transposed and filled up with zeros to whole tiles: (in, out)."""
    out, in_ = weight.shape
    return jnp.pad(weight, ((0, columns.padded - out), (0, rows.padded - in_))).T
