"""Normalization. Half precision is computed in float32, as in torch."""

from __future__ import annotations

import jax

from jaxlstm.models.operators.registry import register_operator
from jaxlstm.precision import gate_dtype


@register_operator("aten.batch_norm.default")
def batch_norm(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array,
    running_var: jax.Array,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> jax.Array:
    """Normalize each channel by the running statistics; axis 1 holds the channels."""
    wide = gate_dtype(input.dtype)
    shape = (1, -1) + (1,) * (input.ndim - 2)

    def per_channel(x: jax.Array) -> jax.Array:
        return x.astype(wide).reshape(shape)

    scale = jax.lax.rsqrt(per_channel(running_var) + eps)
    y = (input.astype(wide) - per_channel(running_mean)) * (
        scale if weight is None else scale * per_channel(weight)
    )
    return (y if bias is None else y + per_channel(bias)).astype(input.dtype)
