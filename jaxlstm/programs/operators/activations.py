"""Activation functions and dropout. Half precision is computed in float32, as in torch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.layer import activations
from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import as_float, held, in_float32
from jaxlstm.programs.operators.registry import (
    Kwargs,
    register_family,
    register_layouts,
    register_operator,
    same,
)
from jaxlstm.programs.operators.unary import of_floats, of_tensor


@register_operator("aten.hardtanh.default", layout="elementwise")
def hardtanh(self: Array, min_val: float = -1, max_val: float = 1) -> Array:
    """Return x between two bounds, with gradient 0 at the bounds."""
    inside = (self > min_val) & (self < max_val)
    bounds = jnp.asarray(min_val, self.dtype), jnp.asarray(max_val, self.dtype)
    clipped = jnp.clip(jax.lax.stop_gradient(self), *bounds)
    return jnp.where(inside, self, clipped)


@register_operator("aten.leaky_relu.default", layout="elementwise")
def leaky_relu(self: Array, negative_slope: float = 0.01) -> Array:
    """Return x where positive, else ``negative_slope * x``."""
    return jnp.where(self > 0, self, self * jnp.asarray(negative_slope, self.dtype))


@register_layouts("aten.prelu.default")
def prelu(last: bool, self: Array, weight: Array) -> Array:
    """Return x where positive, else x times a learned slope, one for all channels or one for each."""
    if weight.size == 1:
        weight = weight.reshape(())
    elif weight.ndim == 1 and self.ndim > 1 and not last:
        weight = weight.reshape(-1, *((1,) * (self.ndim - 2)))
    return jnp.where(self > 0, self, self * weight)


register_operator("aten._prelu_kernel.default")(partial(prelu, False))


@register_operator("aten.rrelu.default", in_training=lambda kwargs: bool(kwargs.get("training")))
def rrelu(
    self: Array, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Array:
    """Return a leaky ReLU with the mean of the two slopes: the evaluation form of a random ReLU."""
    return leaky_relu(self, (lower + upper) / 2)


@register_operator("aten.elu.default", layout="elementwise")
@in_float32
def elu(self: Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Array:
    """Return x where positive, else ``alpha * (exp(x) - 1)``, with the scales of SELU."""
    positive = self > 0
    # exp must not overflow in the branch that is not taken: infinity times the gradient 0 is NaN.
    negative = jnp.where(positive, 0, self)
    return jnp.where(positive, self * scale, jnp.expm1(negative * input_scale) * (alpha * scale))


@register_operator("aten.celu.default", layout="elementwise")
def celu(self: Array, alpha: float = 1) -> Array:
    """Return the ELU of slope 1 at 0 for each alpha."""
    return elu(self, alpha, 1, 1 / alpha)


@register_operator("aten.gelu.default", layout="elementwise")
@in_float32
def gelu(self: Array, approximate: str = "none") -> Array:
    """Return x times the normal distribution function of x, exact ("none") or by a tanh ("tanh")."""
    return jax.nn.gelu(self, approximate=approximate == "tanh")


sigmoid = in_float32(activations.sigmoid)
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
_OF_TENSOR: dict[str, Any] = {
    "hardsigmoid": in_float32(lambda x: hardtanh(x + 3, 0, 6) / 6),
    "hardswish": in_float32(lambda x: x * hardtanh(x + 3, 0, 6) / 6),
    "log_sigmoid": in_float32(jax.nn.log_sigmoid),
    "mish": in_float32(lambda x: x * activations.tanh(jax.nn.softplus(x))),
    "relu": jax.nn.relu,  # gradient 0 at 0
    "relu6": lambda x: hardtanh(x, 0, 6),
    "selu": lambda x: elu(x, _SELU_ALPHA, _SELU_SCALE),
    "silu": in_float32(lambda x: x * activations.sigmoid(x)),
}
register_family(of_tensor, _OF_TENSOR, layout="elementwise")
_OF_FLOATS = {"sigmoid special_expit": sigmoid, "tanh": in_float32(activations.tanh)}
register_family(of_floats, _OF_FLOATS, layout="elementwise")


@register_operator("jaxlstm.tanh.default", layout="elementwise")
@in_float32
def tanh_of_xla(self: Array) -> Array:
    """Return the hyperbolic tangent as ports compute it."""
    return jnp.tanh(self)


@register_operator("aten.glu.default", layout="along")
def glu(self: Array, dim: int = -1) -> Array:
    """Return the first half along an axis times the sigmoid of the second half."""
    place = axis(self, dim)
    if self.shape[place] % 2:
        raise ValueError(f"glu halves axis {dim}, which has the odd size {self.shape[place]}")
    value, gate = jnp.split(self, 2, place)
    return value * sigmoid(as_float(gate))


@register_operator("aten.softplus.default", layout="elementwise")
@in_float32
def softplus(self: Array, beta: float = 1, threshold: float = 20) -> Array:
    """Return log(1 + exp(beta * x)) / beta, and x where ``beta * x`` exceeds the threshold."""
    scaled = self * beta
    return jnp.where(scaled > threshold, self, jax.nn.softplus(scaled) / beta)


@register_operator("aten.hardshrink.default", layout="elementwise")
def hardshrink(self: Array, lambd: float = 0.5) -> Array:
    """Return x, and 0 where it is between -lambd and lambd."""
    return jnp.where((self >= -lambd) & (self <= lambd), jnp.zeros_like(self), self)


@register_operator("aten.softshrink.default", layout="elementwise")
def softshrink(self: Array, lambd: float = 0.5) -> Array:
    """Return x moved by ``lambd`` towards 0, and 0 in between."""
    lower = jnp.where(self < -lambd, self + lambd, jnp.zeros_like(self))
    return jnp.where(self > lambd, self - lambd, jnp.where(self != self, self, lower))


@register_operator("aten.threshold.default", layout="elementwise")
def threshold(self: Array, threshold: float, value: float) -> Array:
    """Return x where it exceeds the threshold, else ``value``."""
    return jnp.where(self <= threshold, jnp.asarray(value, self.dtype), self)


def normalized(function: Any, self: Array, dim: int, dtype: Any = None, half_to_float: bool = False) -> Array:
    """Return ``jax.nn.softmax`` or ``jax.nn.log_softmax`` along an axis; ``dtype`` converts first."""
    x = self if dtype is None else self.astype(held(dtype))
    wide = x.astype(gate_dtype(x.dtype)).reshape(x.shape or (1,))
    return function(wide, axis=axis(x, dim)).reshape(x.shape).astype(x.dtype)


_SOFTMAX = {"softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax}
register_family(normalized, _SOFTMAX, "int", layout="along")
register_family(
    normalized, {f"_{name} special_{name}": function for name, function in _SOFTMAX.items()}, layout="along"
)


def _drops(kwargs: Kwargs) -> bool:
    return bool(kwargs.get("train") and kwargs.get("p"))


# torch returns the input itself.
@register_operator(
    *(f"aten.{name}.default" for name in ("dropout", "alpha_dropout")),
    write_back=same,
    in_training=_drops,
    layout="elementwise",
)
def dropout(input: Array, p: float, train: bool) -> Array:
    """Return the input: dropout in evaluation."""
    return input


@register_layouts(
    "aten.feature_dropout.default", "aten.feature_alpha_dropout.default", write_back=same, in_training=_drops
)
def feature_dropout(last: bool, input: Array, p: float, train: bool) -> Array:
    """Return the input: dropout of whole channels in evaluation."""
    return dropout(input, p, train)
