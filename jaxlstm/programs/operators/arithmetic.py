"""Elementwise arithmetic, with torch's type promotion and integer division."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlstm.programs.operators.dtypes import (
    Operand,
    as_array,
    is_float,
    is_integer,
    promoted,
    promoted_floats,
    result_type,
)
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.add.Tensor", "aten.add.Scalar")
def add(self: jax.Array, other: Operand, alpha: Operand = 1) -> jax.Array:
    """Return ``self + alpha * other``."""
    self, other = promoted(self, other)
    if self.dtype == jnp.bool_:
        return self | (other if alpha else jnp.zeros_like(other))
    return self + _scaled(other, alpha)


@register_operator("aten.sub.Tensor", "aten.sub.Scalar")
def sub(self: jax.Array, other: Operand, alpha: Operand = 1) -> jax.Array:
    """Return ``self - alpha * other``."""
    self, other = promoted(self, other)
    return self - _scaled(other, alpha)


@register_operator("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(self: jax.Array, other: Operand, alpha: Operand = 1) -> jax.Array:
    """Return ``other - alpha * self``."""
    self, other = promoted(self, other)
    return other - _scaled(self, alpha)


@register_operator("aten.mul.Tensor", "aten.mul.Scalar")
def mul(self: jax.Array, other: Operand) -> jax.Array:
    """Return ``self * other``."""
    self, other = promoted(self, other)
    return self * other


@register_operator("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor", "aten.true_divide.Scalar")
def div(self: jax.Array, other: Operand) -> jax.Array:
    """Return ``self / other``; integers are divided as float32."""
    self, other = promoted_floats(self, other)
    return self / other


@register_operator("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(self: jax.Array, other: Operand, rounding_mode: str | None = None) -> jax.Array:
    """Return the quotient, exact (None) or rounded to zero ("trunc") or down ("floor")."""
    if rounding_mode == "floor":
        return floor_divide(self, other)
    if rounding_mode is None:
        return div(self, other)
    self, other = promoted(self, other)
    return jax.lax.div(*jnp.broadcast_arrays(self, other)) if is_integer(self) else jnp.trunc(self / other)


@register_operator("aten.floor_divide.default", "aten.floor_divide.Scalar", "aten.floor_divide.Tensor")
def floor_divide(self: jax.Array, other: Operand) -> jax.Array:
    """Return the quotient rounded down; a float divided by zero is infinite or NaN, as in torch."""
    self, other = promoted(self, other)
    if not is_float(self):
        return jnp.floor_divide(self, other)
    return jnp.where(other == 0, self / other, jnp.floor_divide(self, other))


@register_operator("aten.remainder.Tensor", "aten.remainder.Scalar")
def remainder(self: jax.Array, other: Operand) -> jax.Array:
    """Return the remainder with the sign of the divisor."""
    return jnp.remainder(*promoted(self, other))


@register_operator("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(self: jax.Array, other: Operand) -> jax.Array:
    """Return the remainder with the sign of the dividend."""
    return jnp.fmod(*promoted(self, other))


@register_operator("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar", "aten.pow.Tensor")
def pow(self: Operand, exponent: Operand) -> jax.Array:
    """Return ``self ** exponent``; integers to a negative integer power are refused, as in torch."""
    dtype = result_type(self, exponent)
    if isinstance(exponent, int) and not is_float(dtype) and exponent < 0:
        raise ValueError(f"integers to negative integer powers are not allowed, got exponent={exponent}")
    if isinstance(exponent, int) or (isinstance(exponent, float) and exponent.is_integer()):
        # A static exponent has a gradient at zero and negative numbers.
        return jax.lax.integer_pow(as_array(self, dtype), int(exponent))
    return jnp.power(as_array(self, dtype), as_array(exponent, dtype))


@register_operator("aten.maximum.default", "aten.max.other")
def maximum(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the larger element; NaN wins."""
    return jnp.maximum(*promoted(self, other))


@register_operator("aten.minimum.default", "aten.min.other")
def minimum(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the smaller element; NaN wins."""
    return jnp.minimum(*promoted(self, other))


@register_operator("aten.clamp.default", "aten.clamp.Tensor", "aten.clip.default", "aten.clip.Tensor")
def clamp(self: jax.Array, min: Operand | None = None, max: Operand | None = None) -> jax.Array:
    """Return ``self`` between two bounds; ``max`` wins where the bounds cross.

    NaN wins. At a bound, ``self`` has the whole gradient, as in torch; jnp.maximum would share it.
    """
    dtype = result_type(*(bound for bound in (self, min, max) if bound is not None))
    result = as_array(self, dtype)
    if min is not None:
        low = as_array(min, dtype)
        result = jnp.where((result < low) | (low != low), low, result)
    if max is not None:
        high = as_array(max, dtype)
        result = jnp.where((result > high) | (high != high), high, result)
    return result


@register_operator("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(self: jax.Array, min: Operand) -> jax.Array:
    """Return the larger of ``self`` and a bound."""
    return clamp(self, min)


@register_operator("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(self: jax.Array, max: Operand) -> jax.Array:
    """Return the smaller of ``self`` and a bound."""
    return clamp(self, None, max)


@register_operator("aten.atan2.default")
def atan2(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the angle of the point (other, self)."""
    return jnp.arctan2(*promoted_floats(self, other))


@register_operator("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(self: jax.Array, end: jax.Array, weight: Operand) -> jax.Array:
    """Return the linear interpolation from ``self`` (weight 0) to ``end`` (weight 1)."""
    weight = as_array(weight, self.dtype)
    # As in torch, exact at both ends.
    return jnp.where(jnp.abs(weight) < 0.5, self + weight * (end - self), end - (end - self) * (1 - weight))


@register_operator("aten.addcmul.default")
def addcmul(self: jax.Array, tensor1: jax.Array, tensor2: jax.Array, value: Operand = 1) -> jax.Array:
    """Return ``self + value * tensor1 * tensor2``."""
    self, tensor1, tensor2 = promoted(self, tensor1, tensor2)
    return self + _scaled(tensor1 * tensor2, value)


@register_operator("aten.addcdiv.default")
def addcdiv(self: jax.Array, tensor1: jax.Array, tensor2: jax.Array, value: Operand = 1) -> jax.Array:
    """Return ``self + value * tensor1 / tensor2``."""
    self, tensor1, tensor2 = promoted(self, tensor1, tensor2)
    return self + _scaled(tensor1 / tensor2, value)


def _scaled(x: jax.Array, factor: Operand) -> jax.Array:
    """Return ``x * factor`` in the dtype of ``x``."""
    return x if factor == 1 else x * jnp.asarray(factor, x.dtype)
