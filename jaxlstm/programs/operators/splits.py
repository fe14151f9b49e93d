"""An axis in several parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.operators.axes import axis, slice_of
from jaxlstm.programs.operators.registry import Kwargs, register_operator
from jaxlstm.programs.operators.slices import set_part


def _split_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    size = kwargs["split_size"]
    return set_part(base, view, kwargs.get("dim", 0), slice(index * size, (index + 1) * size))


@register_operator("aten.split.Tensor", write_back=_split_back)
def split(self: jax.Array, split_size: int, dim: int = 0) -> list[jax.Array]:
    """Split an axis into parts of a size; the last part may be smaller."""
    place = axis(self, dim)
    size = self.shape[place]
    if split_size == 0 and size == 0:
        return [self]
    if split_size <= 0:
        raise ValueError(f"split_size must be positive for an axis of size {size}, got {split_size}")
    return [
        jax.lax.slice_in_dim(self, start, min(start + split_size, size), axis=place)
        for start in range(0, max(size, 1), split_size)
    ]


def _chunk_size(size: int, chunks: int) -> int:
    return max(-(-size // chunks), 1)


def _chunk_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    dim = kwargs.get("dim", 0)
    size = _chunk_size(base.shape[axis(base, dim)], kwargs["chunks"])
    return set_part(base, view, dim, slice(index * size, (index + 1) * size))


@register_operator("aten.chunk.default", write_back=_chunk_back)
def chunk(self: jax.Array, chunks: int, dim: int = 0) -> list[jax.Array]:
    """Split an axis into at most ``chunks`` parts of equal size; the last part may be smaller."""
    return split(self, _chunk_size(self.shape[axis(self, dim)], chunks), dim)


def _sizes_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    sizes = kwargs.get("split_sizes", kwargs.get("split_size"))
    assert sizes is not None
    start = sum(sizes[:index])
    return set_part(base, view, kwargs.get("dim", 0), slice(start, start + sizes[index]))


@register_operator("aten.split_with_sizes.default", "aten.split.sizes", write_back=_sizes_back)
def split_with_sizes(
    self: jax.Array, split_sizes: Sequence[int] | None = None, dim: int = 0, split_size: Any = None
) -> list[jax.Array]:
    """Split an axis into parts of given sizes."""
    sizes = split_size if split_sizes is None else split_sizes
    place = axis(self, dim)
    if sum(sizes) != self.shape[place] or min(sizes, default=0) < 0:
        raise ValueError(
            f"split_sizes must not be negative and must add up to {self.shape[place]}, got {tuple(sizes)}"
        )
    return jnp.split(self, np.cumsum(sizes)[:-1].tolist(), place)


# The results are in memory one by one. Without a bound, a number in a file could fill it.
_MOST_SECTIONS = 1 << 16


def _parts(size: int, sections: int | None, indices: Sequence[int] | None) -> list[slice]:
    """Return the slices of an axis: ``sections`` of almost equal size, or those between indices."""
    if indices is None:
        assert sections is not None
        if not 0 < sections <= _MOST_SECTIONS:
            raise ValueError(f"sections must be from 1 to {_MOST_SECTIONS:,}, got {sections}")
        length, longer = divmod(size, sections)
        indices = [length * i + min(i, longer) for i in range(1, sections)]
    bounds = [0, *indices, size]
    return [slice_of(size, start, end) for start, end in pairwise(bounds)]


def _tensor_split_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    dim = kwargs.get("dim", 0)
    parts = _parts(base.shape[axis(base, dim)], kwargs.get("sections"), kwargs.get("indices"))
    return set_part(base, view, dim, parts[index])


@register_operator("aten.tensor_split.sections", "aten.tensor_split.indices", write_back=_tensor_split_back)
def tensor_split(
    self: jax.Array, sections: int | None = None, indices: Sequence[int] | None = None, dim: int = 0
) -> list[jax.Array]:
    """Split an axis into parts, the first ones larger by one element, or at indices."""
    place = axis(self, dim)
    return [self[(slice(None),) * place + (part,)] for part in _parts(self.shape[place], sections, indices)]


def _register_axis_split(name: str, dim_of: Callable[[int], int]) -> None:
    """Register a split of an axis that depends on the number of axes."""

    def back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
        return _tensor_split_back(base, view, index, {**kwargs, "dim": dim_of(base.ndim)})

    @register_operator(f"aten.{name}.int", f"aten.{name}.array", write_back=back)
    def split_axis(
        self: jax.Array, sections: int | None = None, indices: Sequence[int] | None = None
    ) -> list[jax.Array]:
        dim = dim_of(self.ndim)
        if sections is not None and (sections < 1 or self.shape[dim] % sections):
            raise ValueError(
                f"sections must divide {self.shape[dim]}, the size of axis {dim}; got {sections}"
            )
        return tensor_split(self, sections, indices, dim)


_register_axis_split("hsplit", lambda ndim: min(ndim - 1, 1))
_register_axis_split("vsplit", lambda ndim: 0)
_register_axis_split("dsplit", lambda ndim: 2)
