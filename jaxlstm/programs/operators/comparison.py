"""Comparisons and logic, with torch's type promotion; the results are bool."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.programs.operators.dtypes import Operand, is_float, promoted
from jaxlstm.programs.operators.registry import register_operator

_COMPARISONS: dict[str, Any] = {
    "eq": jnp.equal,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "le": jnp.less_equal,
    "lt": jnp.less,
    "ne": jnp.not_equal,
}
_LOGICAL: dict[str, Any] = {
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
}
_BITWISE: dict[str, tuple[Any, str]] = {
    "bitwise_and": (jnp.bitwise_and, "__and__"),
    "bitwise_or": (jnp.bitwise_or, "__or__"),
    "bitwise_xor": (jnp.bitwise_xor, "__xor__"),
}


def _register_binary(names: tuple[str, ...], function: Any) -> None:
    @register_operator(*names)
    def binary(self: jax.Array, other: Operand) -> jax.Array:
        return function(*promoted(self, other))


for _name, _function in _COMPARISONS.items():
    _register_binary((f"aten.{_name}.Tensor", f"aten.{_name}.Scalar"), _function)
for _name, _function in _LOGICAL.items():
    _register_binary((f"aten.{_name}.default",), _function)
for _name, (_function, _python_name) in _BITWISE.items():
    _register_binary(
        tuple(f"aten.{n}.{kind}" for n in (_name, _python_name) for kind in ("Tensor", "Scalar")), _function
    )


@register_operator("aten.logical_not.default")
def logical_not(self: jax.Array) -> jax.Array:
    """Return True where ``self`` is zero."""
    return jnp.logical_not(self)


@register_operator("aten.isnan.default")
def isnan(self: jax.Array) -> jax.Array:
    """Return True where ``self`` is NaN."""
    return self != self


@register_operator("aten.isinf.default")
def isinf(self: jax.Array) -> jax.Array:
    """Return True where ``self`` is infinite."""
    return jnp.isinf(self) if is_float(self) else jnp.zeros_like(self, bool)


@register_operator("aten.isfinite.default")
def isfinite(self: jax.Array) -> jax.Array:
    """Return True where ``self`` is neither infinite nor NaN."""
    return jnp.isfinite(self) if is_float(self) else jnp.ones_like(self, bool)


@register_operator("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(condition: jax.Array, self: Operand, other: Operand) -> jax.Array:
    """Return ``self`` where the condition holds, else ``other``."""
    return jnp.where(condition.astype(bool), *promoted(self, other))
