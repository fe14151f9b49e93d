"""Axes and sizes: negative axes, one number for several axes, and slices that torch clamps."""

from collections.abc import Sequence
from typing import Any

from jax import Array


def axis(x: Array, dim: int) -> int:
    """Return a non-negative axis. torch accepts 0 and -1 for an array without axes."""
    return axis_of(x.ndim, dim)


def axis_of(ndim: int, dim: int) -> int:
    """Return a non-negative axis among ``ndim`` axes."""
    size = max(ndim, 1)
    if not -size <= dim < size:
        raise IndexError(f"dim must be from {-size} to {size - 1}, got {dim}")
    return dim % size


def axes(x: Array, dim: Any) -> tuple[int, ...]:
    """Return non-negative axes for an int, a list, or None or () for all axes."""
    if dim is None or dim == ():
        return tuple(range(x.ndim))
    dims = (dim,) if isinstance(dim, int) else dim
    return tuple(axis(x, d) for d in dims) if x.ndim else ()


def repeated(value: int | Sequence[int] | None, count: int, default: Any = None) -> tuple[int, ...]:
    """Return a value per spatial axis: torch accepts one number for all of them."""
    if value is None or value == ():
        value = default
    if isinstance(value, int):
        return (value,) * count
    value = tuple(value)  # type: ignore[arg-type]
    if len(value) == 1:
        return value * count
    if len(value) != count:
        raise ValueError(f"expected one number, or {count}, for {count} spatial axes; got {value}")
    return value


_TO_THE_END = 2**63 - 1
"""The end of ``x[start:]`` in a graph."""


def slice_of(size: int, start: int | None, end: int | None, step: int = 1) -> slice:
    """Return a slice within an axis. As in Python and torch, bounds outside of the axis are clamped."""
    # A number that is a traced array is unknown: JAX raises.
    start, end = (int(number) if isinstance(number, Array) else number for number in (start, end))
    if all(isinstance(number, int | None) for number in (size, start, end)):
        return slice(*slice(start, end, step).indices(size))
    # With the symbolic sizes of jax.export, JAX clamps the bounds.
    return slice(start, None if end == _TO_THE_END else end, step)
