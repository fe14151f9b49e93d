"""Activation functions. Half precision is computed in float32 where torch does."""

from __future__ import annotations

from typing import Any

import jax

from jaxlstm import activations
from jaxlstm.models.operators.axes import axis
from jaxlstm.models.operators.dtypes import as_float, held
from jaxlstm.models.operators.registry import register_operator
from jaxlstm.precision import gate_dtype


@register_operator("aten.relu.default")
def relu(self: jax.Array) -> jax.Array:
    """Return max(x, 0), with gradient 0 at 0 as in torch."""
    return jax.nn.relu(self)


@register_operator("aten.sigmoid.default")
def sigmoid(self: jax.Array) -> jax.Array:
    """Return 1 / (1 + exp(-x))."""
    return activations.sigmoid(as_float(self))


@register_operator("aten.tanh.default")
def tanh(self: jax.Array) -> jax.Array:
    """Return the hyperbolic tangent."""
    return activations.tanh(as_float(self))


@register_operator("aten.softmax.int", "aten._softmax.default")
def softmax(self: jax.Array, dim: int, dtype: Any = None, half_to_float: bool = False) -> jax.Array:
    """Return exp(x) / sum(exp(x)) along an axis; ``dtype`` converts first."""
    return _normalized(jax.nn.softmax, self, dim, dtype)


@register_operator("aten.log_softmax.int", "aten._log_softmax.default")
def log_softmax(self: jax.Array, dim: int, dtype: Any = None, half_to_float: bool = False) -> jax.Array:
    """Return the logarithm of the softmax along an axis; ``dtype`` converts first."""
    return _normalized(jax.nn.log_softmax, self, dim, dtype)


def _normalized(function: Any, x: jax.Array, dim: int, dtype: Any) -> jax.Array:
    x = x if dtype is None else x.astype(held(dtype))
    wide = x.astype(gate_dtype(x.dtype)).reshape(x.shape or (1,))
    return function(wide, axis=axis(x, dim)).reshape(x.shape).astype(x.dtype)
