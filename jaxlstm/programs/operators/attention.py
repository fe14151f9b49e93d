"""Attention."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.linear_algebra import product
from jaxlstm.programs.operators.registry import Options, register_operator


@register_operator(
    "aten.scaled_dot_product_attention.default", in_training=lambda kwargs: bool(kwargs.get("dropout_p"))
)
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    options: Options,
) -> Array:
    """Return softmax(query @ key.T * scale + mask) @ value.

    A bool mask is True where a key takes part. A query without any key gives zeros, as in torch.
    """
    if enable_gqa:
        key = jnp.repeat(key, query.shape[-3] // key.shape[-3], axis=-3)
        value = jnp.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    wide = gate_dtype(query.dtype)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    # As in torch, the root of the scale on each side keeps half precision in range.
    sign = -1 if factor < 0 else 1
    root = jnp.asarray(math.sqrt(abs(factor)), wide)
    left, right = query.astype(wide) * root * sign, jnp.swapaxes(key.astype(wide) * root, -1, -2)
    scores = product(left, right, options)
    if is_causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    if attn_mask is not None and attn_mask.dtype == jnp.bool_:
        scores = jnp.where(attn_mask, scores, -jnp.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask.astype(wide)
    return product(_safe_softmax(scores), value.astype(wide), options).astype(query.dtype)


def _safe_softmax(scores: Array) -> Array:
    """Return the softmax over the last axis, and zeros where every score is -inf."""
    nothing = jnp.all(scores == -jnp.inf, -1, keepdims=True)
    return jnp.where(nothing, 0, jax.nn.softmax(jnp.where(nothing, 0, scores), axis=-1))
