"""Places of values in sorted sequences."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.operators.dtypes import Operand, held, promoted
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def searchsorted(
    sorted_sequence: jax.Array,
    self: Operand,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: jax.Array | None = None,
) -> jax.Array:
    """Return the index before which each value belongs into a sequence in ascending order.

    The sequence is one for all values, or one for each row of values: (..., n) and (..., m).
    """
    if sorter is not None:
        sorted_sequence = jnp.take_along_axis(sorted_sequence, sorter, -1)
    sequences, values = promoted(sorted_sequence, self)
    chosen = "right" if right or side == "right" else "left"
    if sequences.ndim == 1:
        found = jnp.searchsorted(sequences, values, chosen)
    else:
        by_row = jax.vmap(lambda sequence, row: jnp.searchsorted(sequence, row, chosen))
        rows = math.prod(values.shape[:-1])
        pairs = (array.reshape(rows, array.shape[-1]) for array in (sequences, values))
        found = by_row(*pairs).reshape(values.shape)
    return found.astype(np.int32 if out_int32 else held("int64"))


@register_operator("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def bucketize(
    self: Operand, boundaries: jax.Array, out_int32: bool = False, right: bool = False
) -> jax.Array:
    """Return the number of the bucket of each value among boundaries in ascending order."""
    return searchsorted(boundaries, self, out_int32, right)
