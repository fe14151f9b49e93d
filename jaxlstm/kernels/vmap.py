"""``jax.vmap`` of a primitive: the mapped axis is folded into the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.kernels.partition import Axes


def vmapped(
    bind: Callable[..., list],
    plain: Callable[..., list],
    arrays: Sequence[jax.Array],
    mapped_axes: Axes,
    batch_axes: Axes,
    result_batch_axes: Axes,
) -> tuple[list, Axes]:
    """Return the results of a primitive under ``jax.vmap``, and the mapped axis of each.

    Args:
      bind: the primitive, from arrays to a list of arrays.
      plain: the same function in JAX, for the cases that the primitive does not support.
      mapped_axes: the mapped axis of each array, or None.
      batch_axes: the batch axis of each array without its mapped axis, None for weights.
      result_batch_axes: the batch axis of each result, None for a sum over the batch.
    """
    size = next(x.shape[d] for x, d in zip(arrays, mapped_axes, strict=True) if d is not None)
    result_axes = [axis for axis in result_batch_axes if axis is not None]
    if len(result_axes) < len(result_batch_axes) or size == 0:
        results = jax.vmap(plain, in_axes=tuple(mapped_axes))(*arrays)
        return results, [0] * len(results)
    if any(d is not None and axis is None for d, axis in zip(mapped_axes, batch_axes, strict=True)):
        results = _one_by_one(bind, arrays, mapped_axes)
        return results, [0] * len(results)
    folded = [
        x if axis is None else _fold(x, d, axis, size)
        for x, d, axis in zip(arrays, mapped_axes, batch_axes, strict=True)
    ]
    results = zip(bind(*folded), result_axes, strict=True)
    return [_unfold(y, axis, size) for y, axis in results], result_axes


def _one_by_one(bind: Callable[..., list], arrays: Sequence[jax.Array], mapped_axes: Axes) -> list:
    pairs = list(zip(arrays, mapped_axes, strict=True))

    def one(values: list) -> list:
        rest = iter(values)
        return bind(*(x if d is None else next(rest) for x, d in pairs))

    return lax.map(one, [jnp.moveaxis(x, d, 0) for x, d in pairs if d is not None])


def _fold(x: jax.Array, dim: int | None, axis: int, size: int) -> jax.Array:
    """Move the mapped axis ``dim``, or a new one, in front of the batch axis and merge the two."""
    if dim is None:
        x = jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], size, *x.shape[axis:]))
    else:
        x = jnp.moveaxis(x, dim, axis)
    return x.reshape(*x.shape[:axis], size * x.shape[axis + 1], *x.shape[axis + 2 :])


def _unfold(y: jax.Array, axis: int, size: int) -> jax.Array:
    return y.reshape(*y.shape[:axis], size, y.shape[axis] // size, *y.shape[axis + 1 :])
