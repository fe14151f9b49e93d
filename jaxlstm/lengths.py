"""Ragged batches: which time steps of a padded batch are valid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int


def valid_steps(lengths: Int[Array, "batch"], time: int) -> Bool[Array, "time batch"]:
    """Bool (time, batch): whether step t lies inside the length of its row."""
    return jnp.arange(time)[:, None] < lengths[None, :]


def as_lengths(value: Any, batch: int, time: int, *, name: str = "seq_lengths") -> jax.Array:
    """``value`` as int32 (batch,), checked as torch's ``pack_padded_sequence`` checks lengths.

    The values are checked where they are known, which under ``jax.jit`` they may not be.

    Raises:
      TypeError: not integers.
      ValueError: a wrong count, or a length that is not from 1 to ``time``.
    """
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {value.dtype}; cast them with .astype(int)")
    if value.shape != (batch,):
        raise ValueError(
            f"{name} must have shape ({batch},), one length for each sequence; got {value.shape}"
        )
    if not isinstance(value, Tracer):
        known = np.asarray(value)
        wrong = np.flatnonzero((known < 1) | (known > time))
        if wrong.size:
            raise ValueError(
                f"{name} must be from 1 to the time steps of the inputs, {time}; got "
                f"{int(known[wrong[0]])} at index {int(wrong[0])}"
                + (f" and {wrong.size - 1} more" if wrong.size > 1 else "")
                + "; drop empty sequences, and cut lengths to the inputs"
            )
    return jnp.asarray(value, jnp.int32)
