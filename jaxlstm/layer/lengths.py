"""Ragged batches: lengths of sequences and the valid steps of a padded batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int


def valid_steps(lengths: Int[Array, "batch"], time: int) -> Bool[Array, "time batch"]:
    """Return a mask that is True where a time step is within the length of its sequence."""
    return jnp.arange(time)[:, None] < lengths[None, :]


def check_lengths(
    value: Any, batch: int, time: int, *, name: str = "seq_lengths", minimum: int = 1
) -> np.ndarray | jax.Array:
    """Check lengths as torch's ``pack_padded_sequence`` does, and return them as an array.

    The check runs on the host and starts no JAX computation. Values that are unknown because of ``jax.jit``
    are not checked. A JAX array is returned unchanged. ``name`` is the argument's, for error messages.

    Raises:
      TypeError: the lengths are not integers.
      ValueError: the shape is not (batch,), or a length is not between ``minimum`` and ``time``.
    """
    lengths = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {lengths.dtype}; cast them with .astype(int)")
    if lengths.shape != (batch,):
        raise ValueError(
            f"{name} must have shape ({batch},), one length per sequence; got shape {lengths.shape}"
        )
    if not isinstance(lengths, Tracer):
        _check_range(np.asarray(lengths), minimum, time, name)
    return lengths


def _check_range(lengths: np.ndarray, minimum: int, maximum: int, name: str) -> None:
    invalid = np.flatnonzero((lengths < minimum) | (lengths > maximum))
    if not invalid.size:
        return
    others = f" and {invalid.size - 1} more" if invalid.size > 1 else ""
    raise ValueError(
        f"{name} must be between {minimum} and the number of time steps, {maximum}; "
        f"got {int(lengths[invalid[0]])} at index {int(invalid[0])}{others}"
    )


def as_lengths(value: Any, batch: int, time: int) -> jax.Array:
    """Return lengths as a JAX array of int32, after :func:`check_lengths`."""
    return jnp.asarray(check_lengths(value, batch, time), jnp.int32)
