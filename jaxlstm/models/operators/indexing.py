"""Look-ups and masks.

An index that is out of range raises when its value is known, that is outside of ``jax.jit``. Under ``jit``
the look-up gives NaN for floats: a wrong index never selects a wrong row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.models.errors import ProgramError
from jaxlstm.models.operators.dtypes import Operand, as_array
from jaxlstm.models.operators.registry import register_operator


def require_in_range(indices: jax.Array, low: int, high: int, what: str) -> None:
    """Raise if known indices are outside of low <= index < high."""
    if isinstance(indices, jax.core.Tracer) or not indices.size:
        return
    values = np.asarray(indices)
    outside = (values < low) | (values >= high)
    if outside.any():
        raise ProgramError(
            "index-range", f"{what} must be from {low} to {high - 1}, got {values[outside].flat[0]}"
        )


@register_operator("aten.embedding.default")
def embedding(
    weight: jax.Array,
    indices: jax.Array,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> jax.Array:
    """Return rows of a table. Negative indices do not count from the end; ``padding_idx`` has no gradient."""
    require_in_range(indices, 0, weight.shape[0], "indices of an embedding")
    row = jnp.where(indices < 0, weight.shape[0], indices)
    rows = weight.at[row].get(mode="fill", fill_value=jnp.nan)
    if padding_idx < 0:
        return rows
    return jnp.where((indices == padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


@register_operator("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(self: jax.Array, mask: jax.Array, value: Operand) -> jax.Array:
    """Return ``value`` where the mask is True."""
    return jnp.where(mask, as_array(value, self.dtype), self)
