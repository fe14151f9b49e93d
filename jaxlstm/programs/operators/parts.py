"""Parts of an axis: slices, splits and windows.

An operator that returns parts is declared by its rule, which returns the axis and the part, or the list of
parts. The view and its inverse, which writes a changed part back, follow from the rule.
"""

import functools
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.operators.axes import axis, slice_of
from jaxlstm.programs.operators.indexing import if_valid
from jaxlstm.programs.operators.registry import Kwargs, register_operator, shares_elements

Part = int | slice
Rule = TypeVar("Rule", bound=Callable[..., tuple[int, Part | list[Part]]])

# The results are in memory one by one. Without a bound, a number in a file could fill it.
_MOST_SECTIONS = 1 << 16


def set_part(base: Array, view: Array, place: int, part: Part | np.ndarray) -> Array:
    """Return ``base`` with a view written to a part of an axis."""
    return base.at[(slice(None),) * place + (part,)].set(view)


def _get_part(x: Array, place: int, part: Part) -> Array:
    if isinstance(part, int):
        return jax.lax.index_in_dim(x, part, place, keepdims=False)
    size: Any = x.shape[place]
    if jax.export.is_symbolic_dim(size) and _is_start(part):
        # JAX would gather, by indices that it computes.
        stop: Any = size.min(part.stop)
        return jax.lax.slice_in_dim(x, 0, stop, axis=place)
    return x[(slice(None),) * place + (part,)]


def _is_start(part: slice) -> bool:
    return part.start in (None, 0) and part.step in (None, 1) and type(part.stop) is int and part.stop >= 0


def _register_parts(*names: str, **declared: Any) -> Callable[[Rule], Rule]:
    """Register the decorated rule as operators that return the part of an axis, or the list of parts."""

    def register(rule: Rule) -> Rule:
        @functools.wraps(rule)
        def view(self: Array, *args: Any, **kwargs: Any) -> Array | list[Array]:
            place, parts = rule(self, *args, **kwargs)
            if isinstance(parts, list):
                return [_get_part(self, place, part) for part in parts]
            return _get_part(self, place, parts)

        def write_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
            place, parts = rule(base, **kwargs)
            return set_part(base, view, place, parts[index] if isinstance(parts, list) else parts)

        register_operator(*names, write_back=write_back, **declared)(view)
        return rule

    return register


def _select_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return select_scatter(base, view, **kwargs)


@register_operator("aten.select.int", layout="without", write_back=_select_back)
def select(self: Array, dim: int, index: int, in_range: bool = False) -> Array:
    """Return one slice of an axis, without the axis.

    ``in_range`` marks an index that moves with the steps of a loop; repeat_to_scan.py checks its values.
    """
    place = axis(self, dim)
    return if_valid(_get_part(self, place, index), in_range or _is_in_range(self.shape[place], dim, index))


def _is_in_range(size: int, dim: int, index: Any) -> Array | bool:
    """Return whether an index is in range; if it is known, raise unless it is."""
    if isinstance(index, Tracer):
        return (-size <= index) & (index < size)
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for axis {dim} of size {size}")
    return True


@_register_parts("aten.slice.Tensor", layout="along")
def slice_(
    self: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> tuple[int, slice]:
    """Return a range of an axis; bounds beyond the axis are clamped."""
    place = axis(self, dim)
    return place, slice_of(self.shape[place], start, end, step)


@_register_parts("aten.narrow.default", layout="along")
def narrow(self: Array, dim: int, start: int, length: int) -> tuple[int, slice]:
    """Return ``length`` elements of an axis from ``start``."""
    place = axis(self, dim)
    size = self.shape[place]
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        raise IndexError(f"start {start} and length {length} leave axis {dim} of size {size}")
    return place, slice(first, first + length)


@_register_parts("aten.unbind.int", layout="without")
def unbind(self: Array, dim: int = 0) -> tuple[int, list[Part]]:
    """Return the slices of an axis, without the axis."""
    place = axis(self, dim)
    return place, list(range(self.shape[place]))


@_register_parts("aten.split.Tensor", layout="along")
def split(self: Array, split_size: int, dim: int = 0) -> tuple[int, list[Part]]:
    """Split an axis into parts of a size; the last part may be smaller."""
    place = axis(self, dim)
    size = self.shape[place]
    if split_size == 0 and size == 0:
        return place, [slice(0, 0)]
    if split_size <= 0:
        raise ValueError(f"split_size must be positive for an axis of size {size}, got {split_size}")
    starts = range(0, max(size, 1), split_size)
    return place, [slice(start, min(start + split_size, size)) for start in starts]


@_register_parts("aten.chunk.default", layout="along")
def chunk(self: Array, chunks: int, dim: int = 0) -> tuple[int, list[Part]]:
    """Split an axis into at most ``chunks`` parts of equal size; the last part may be smaller."""
    place = axis(self, dim)
    if self.shape[place] == 0:
        return place, [slice(0, 0)] * chunks
    return split(self, -(-self.shape[place] // chunks), dim)


@_register_parts(
    *("aten.split_with_sizes.default", "aten.split.sizes"),
    schema_names={"split_size": "split_sizes"},
    layout="along",
)
def split_with_sizes(self: Array, split_sizes: Sequence[int], dim: int = 0) -> tuple[int, list[Part]]:
    """Split an axis into parts of given sizes."""
    place = axis(self, dim)
    if sum(split_sizes) != self.shape[place] or min(split_sizes, default=0) < 0:
        raise ValueError(
            f"split_sizes must not be negative and must add up to {self.shape[place]}, "
            f"got {tuple(split_sizes)}"
        )
    return place, [slice(*bounds) for bounds in pairwise(accumulate(split_sizes, initial=0))]


@_register_parts("aten.tensor_split.sections", "aten.tensor_split.indices")
def tensor_split(
    self: Array, sections: int | None = None, indices: Sequence[int] | None = None, dim: int = 0
) -> tuple[int, list[Part]]:
    """Split an axis into parts, the first ones larger by one element, or at indices."""
    place = axis(self, dim)
    size = self.shape[place]
    if indices is None:
        assert sections is not None
        if not 0 < sections <= _MOST_SECTIONS:
            raise ValueError(f"sections must be from 1 to {_MOST_SECTIONS:,}, got {sections}")
        length, longer = divmod(size, sections)
        indices = [length * i + min(i, longer) for i in range(1, sections)]
    return place, [slice_of(size, start, end) for start, end in pairwise([0, *indices, size])]


def _split_axis(
    dim_of: Callable[[int], int],
    self: Array,
    sections: int | None = None,
    indices: Sequence[int] | None = None,
) -> tuple[int, list[Part]]:
    """Split the axis ``dim_of(number of axes)`` into parts of equal size, or at indices."""
    dim = dim_of(self.ndim)
    if sections is not None and (sections < 1 or self.shape[dim] % sections):
        raise ValueError(f"sections must divide {self.shape[dim]}, the size of axis {dim}; got {sections}")
    return tensor_split(self, sections, indices, dim)


for _name, _dim_of in {
    "hsplit": lambda ndim: min(ndim - 1, 1),
    "vsplit": lambda ndim: 0,
    "dsplit": lambda ndim: 2,
}.items():
    _register_parts(f"aten.{_name}.int", f"aten.{_name}.array")(functools.partial(_split_axis, _dim_of))


@register_operator("aten.select_scatter.default", layout="writes")
def select_scatter(self: Array, src: Array, dim: int, index: int, in_range: bool = False) -> Array:
    """Write one slice of an axis; ``in_range`` as in :func:`select`."""
    place = axis(self, dim)
    valid = in_range or _is_in_range(self.shape[place], dim, index)
    return if_valid(set_part(self, src.astype(self.dtype), place, index), valid)


@register_operator("aten.slice_scatter.default", layout="writes")
def slice_scatter(
    self: Array, src: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    """Write a range of an axis."""
    return set_part(self, src.astype(self.dtype), *slice_(self, dim, start, end, step))


def _unfold_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    if kwargs["step"] < kwargs["size"]:
        raise shares_elements("windows that overlap")
    if base.ndim == 0:
        return view.reshape(base.shape)
    place = axis(base, kwargs["dimension"])
    starts = np.arange(0, base.shape[place] - kwargs["size"] + 1, kwargs["step"])
    windows = jnp.moveaxis(view, -1, place + 1)
    return set_part(base, windows, place, starts[:, None] + np.arange(kwargs["size"]))


@register_operator("aten.unfold.default", write_back=_unfold_back)
def unfold(self: Array, dimension: int, size: int, step: int) -> Array:
    """Return all windows of an axis, in a new last axis."""
    if self.ndim == 0:
        return self.reshape(1)[:size]
    place = axis(self, dimension)
    starts = np.arange(0, self.shape[place] - size + 1, step)
    windows = jnp.take(self, starts[:, None] + np.arange(size), axis=place)
    return jnp.moveaxis(windows, place + 1, -1)
