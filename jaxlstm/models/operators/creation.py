"""Tensors made of a shape and a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.models.operators.dtypes import DEFAULT_FLOAT, held
from jaxlstm.models.operators.registry import register_operator


@register_operator("aten.zeros.default", "aten.empty.memory_format")
def zeros(size: Sequence[int], dtype: Any = None) -> jax.Array:
    """Return zeros of a shape. ``torch.empty`` gives zeros too."""
    return jnp.zeros(tuple(size), held(dtype or DEFAULT_FLOAT))


@register_operator("aten.ones.default")
def ones(size: Sequence[int], dtype: Any = None) -> jax.Array:
    """Return ones of a shape."""
    return jnp.ones(tuple(size), held(dtype or DEFAULT_FLOAT))


@register_operator("aten.zeros_like.default", "aten.empty_like.default")
def zeros_like(self: jax.Array, dtype: Any = None) -> jax.Array:
    """Return zeros of the shape of a tensor."""
    return jnp.zeros_like(self, held(dtype or self.dtype))


@register_operator("aten.new_zeros.default", "aten.new_empty.default")
def new_zeros(self: jax.Array, size: Sequence[int], dtype: Any = None) -> jax.Array:
    """Return zeros of a shape and the dtype of a tensor."""
    return jnp.zeros(tuple(size), held(dtype or self.dtype))
