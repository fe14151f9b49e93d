"""Functions of two tensors, element by element, other than arithmetic."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.programs.operators.dtypes import Operand, promoted, promoted_floats
from jaxlstm.programs.operators.registry import register_operator

_FLOAT_BINARY: dict[str, Any] = {
    "aten.copysign.Tensor": jnp.copysign,
    "aten.copysign.Scalar": jnp.copysign,
    "aten.hypot.default": jnp.hypot,
    "aten.logaddexp.default": jnp.logaddexp,
    "aten.logaddexp2.default": jnp.logaddexp2,
}


def _register_binary(name: str, function: Any) -> None:
    @register_operator(name)
    def binary(self: jax.Array, other: Operand) -> jax.Array:
        return function(*promoted_floats(self, other))


for _name, _function in _FLOAT_BINARY.items():
    _register_binary(_name, _function)


@register_operator("aten.fmax.default")
def fmax(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the larger element; a number wins over NaN."""
    self, other = promoted(self, other)
    return jnp.where((self >= other) | jnp.isnan(other), self, other)


@register_operator("aten.fmin.default")
def fmin(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the smaller element; a number wins over NaN."""
    self, other = promoted(self, other)
    return jnp.where((self <= other) | jnp.isnan(other), self, other)


@register_operator("aten.heaviside.default")
def heaviside(self: jax.Array, values: jax.Array) -> jax.Array:
    """Return 0 for negative numbers and NaN, 1 for positive ones, and ``values`` at 0."""
    return jnp.where(self == 0, values, (self > 0).astype(values.dtype))


@register_operator(
    *(f"aten.xlogy.{overload}" for overload in ("Tensor", "Scalar_Other", "Scalar_Self")),
    *(f"aten.special_xlogy.{overload}" for overload in ("default", "other_scalar", "self_scalar")),
)
def xlogy(self: Operand, other: Operand) -> jax.Array:
    """Return ``self * log(other)``, and 0 where ``self`` is 0 unless ``other`` is NaN."""
    self, other = promoted_floats(self, other)
    # The gradient is 0 there, too, so the logarithm must be finite.
    is_zero = (self == 0) & ((other <= 0) | jnp.isinf(other))
    return self * jnp.log(jnp.where(is_zero, 1, other))
