"""Activation functions. Half precision is computed in float32, as in torch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.layer import activations
from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import as_float, held, in_float32
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.relu.default")
def relu(self: jax.Array) -> jax.Array:
    """Return max(x, 0), with gradient 0 at 0."""
    return jax.nn.relu(self)


@register_operator("aten.relu6.default")
def relu6(self: jax.Array) -> jax.Array:
    """Return x between 0 and 6."""
    return hardtanh(self, 0, 6)


@register_operator("aten.hardtanh.default")
def hardtanh(self: jax.Array, min_val: float = -1, max_val: float = 1) -> jax.Array:
    """Return x between two bounds, with gradient 0 at the bounds."""
    inside = (self > min_val) & (self < max_val)
    bounds = jnp.asarray(min_val, self.dtype), jnp.asarray(max_val, self.dtype)
    clipped = jnp.clip(jax.lax.stop_gradient(self), *bounds)
    return jnp.where(inside, self, clipped)


@register_operator("aten.leaky_relu.default")
def leaky_relu(self: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    """Return x where positive, else ``negative_slope * x``."""
    return jnp.where(self > 0, self, self * jnp.asarray(negative_slope, self.dtype))


@register_operator("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(self: jax.Array, weight: jax.Array) -> jax.Array:
    """Return x where positive, else x times a learned slope, one for all channels or one for each."""
    if weight.size == 1:
        weight = weight.reshape(())
    elif weight.ndim == 1 and self.ndim > 1:
        weight = weight.reshape(-1, *((1,) * (self.ndim - 2)))
    return jnp.where(self > 0, self, self * weight)


@register_operator("aten.rrelu.default")
def rrelu(
    self: jax.Array, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> jax.Array:
    """Return a leaky ReLU with the mean of the two slopes: the evaluation form of a random ReLU."""
    return leaky_relu(self, (lower + upper) / 2)


@register_operator("aten.elu.default")
@in_float32
def elu(self: jax.Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> jax.Array:
    """Return x where positive, else ``alpha * (exp(x) - 1)``, with the scales of SELU."""
    positive = self > 0
    # exp must not overflow in the branch that is not taken: infinity times the gradient 0 is NaN.
    negative = jnp.where(positive, 0, self)
    return jnp.where(positive, self * scale, jnp.expm1(negative * input_scale) * (alpha * scale))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@register_operator("aten.selu.default")
def selu(self: jax.Array) -> jax.Array:
    """Return the scaled ELU."""
    return elu(self, _SELU_ALPHA, _SELU_SCALE)


@register_operator("aten.celu.default")
def celu(self: jax.Array, alpha: float = 1) -> jax.Array:
    """Return the ELU of slope 1 at 0 for each alpha."""
    return elu(self, alpha, 1, 1 / alpha)


@register_operator("aten.gelu.default")
@in_float32
def gelu(self: jax.Array, approximate: str = "none") -> jax.Array:
    """Return x times the normal distribution function of x, exact ("none") or by a tanh ("tanh")."""
    return jax.nn.gelu(self, approximate=approximate == "tanh")


@register_operator("aten.glu.default")
def glu(self: jax.Array, dim: int = -1) -> jax.Array:
    """Return the first half along an axis times the sigmoid of the second half."""
    place = axis(self, dim)
    if self.shape[place] % 2:
        raise ValueError(f"glu halves axis {dim}, which has the odd size {self.shape[place]}")
    value, gate = jnp.split(self, 2, place)
    return value * sigmoid(gate)


@register_operator("aten.sigmoid.default")
def sigmoid(self: jax.Array) -> jax.Array:
    """Return 1 / (1 + exp(-x))."""
    return in_float32(activations.sigmoid)(as_float(self))


@register_operator("aten.tanh.default")
def tanh(self: jax.Array) -> jax.Array:
    """Return the hyperbolic tangent."""
    return in_float32(activations.tanh)(as_float(self))


@register_operator("aten.silu.default")
@in_float32
def silu(self: jax.Array) -> jax.Array:
    """Return x * sigmoid(x)."""
    return self * activations.sigmoid(self)


@register_operator("aten.mish.default")
@in_float32
def mish(self: jax.Array) -> jax.Array:
    """Return x * tanh(softplus(x))."""
    return self * activations.tanh(jax.nn.softplus(self))


@register_operator("aten.hardsigmoid.default")
@in_float32
def hardsigmoid(self: jax.Array) -> jax.Array:
    """Return (x + 3) / 6 between 0 and 1."""
    return hardtanh(self + 3, 0, 6) / 6


@register_operator("aten.hardswish.default")
@in_float32
def hardswish(self: jax.Array) -> jax.Array:
    """Return x * hardsigmoid(x)."""
    return self * hardtanh(self + 3, 0, 6) / 6


@register_operator("aten.softplus.default")
@in_float32
def softplus(self: jax.Array, beta: float = 1, threshold: float = 20) -> jax.Array:
    """Return log(1 + exp(beta * x)) / beta, and x where ``beta * x`` exceeds the threshold."""
    scaled = self * beta
    return jnp.where(scaled > threshold, self, jax.nn.softplus(scaled) / beta)


@register_operator("aten.log_sigmoid.default")
@in_float32
def log_sigmoid(self: jax.Array) -> jax.Array:
    """Return the logarithm of the sigmoid."""
    return jax.nn.log_sigmoid(self)


@register_operator("aten.hardshrink.default")
def hardshrink(self: jax.Array, lambd: float = 0.5) -> jax.Array:
    """Return x, and 0 where it is between -lambd and lambd."""
    return jnp.where((self >= -lambd) & (self <= lambd), jnp.zeros_like(self), self)


@register_operator("aten.softshrink.default")
def softshrink(self: jax.Array, lambd: float = 0.5) -> jax.Array:
    """Return x moved by ``lambd`` towards 0, and 0 in between."""
    below = jnp.where(self < -lambd, self + lambd, jnp.zeros_like(self))
    return jnp.where(self > lambd, self - lambd, jnp.where(self != self, self, below))


@register_operator("aten.threshold.default")
def threshold(self: jax.Array, threshold: float, value: float) -> jax.Array:
    """Return x where it exceeds the threshold, else ``value``."""
    return jnp.where(self <= threshold, jnp.asarray(value, self.dtype), self)


@register_operator("aten.softmax.int", "aten._softmax.default", "aten.special_softmax.default")
def softmax(self: jax.Array, dim: int, dtype: Any = None, half_to_float: bool = False) -> jax.Array:
    """Return exp(x) / sum(exp(x)) along an axis; ``dtype`` converts first."""
    return _normalized(jax.nn.softmax, self, dim, dtype)


@register_operator("aten.log_softmax.int", "aten._log_softmax.default", "aten.special_log_softmax.default")
def log_softmax(self: jax.Array, dim: int, dtype: Any = None, half_to_float: bool = False) -> jax.Array:
    """Return the logarithm of the softmax along an axis; ``dtype`` converts first."""
    return _normalized(jax.nn.log_softmax, self, dim, dtype)


def _normalized(function: Any, x: jax.Array, dim: int, dtype: Any) -> jax.Array:
    x = x if dtype is None else x.astype(held(dtype))
    wide = x.astype(gate_dtype(x.dtype)).reshape(x.shape or (1,))
    return function(wide, axis=axis(x, dim)).reshape(x.shape).astype(x.dtype)
