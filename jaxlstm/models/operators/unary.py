"""Functions of one tensor, element by element, and rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.models.operators.dtypes import as_float, is_float
from jaxlstm.models.operators.registry import register_operator

_UNARY: dict[str, Any] = {
    "abs": jnp.abs,
    "bitwise_not": jnp.bitwise_not,
    "neg": jnp.negative,
    "sign": jnp.sign,
    "square": jnp.square,
}
_ROUNDING: dict[str, Any] = {"ceil": jnp.ceil, "floor": jnp.floor, "trunc": jnp.trunc}
_FLOAT_UNARY: dict[str, Any] = {
    "acos": jnp.arccos,
    "asin": jnp.arcsin,
    "atan": jnp.arctan,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "erf": jax.lax.erf,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "reciprocal": jnp.reciprocal,
    "rsqrt": jax.lax.rsqrt,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "sqrt": jnp.sqrt,
    "tan": jnp.tan,
}


def _register_unary(name: str, function: Any, prepare: Any) -> None:
    @register_operator(f"aten.{name}.default")
    def unary(self: jax.Array) -> jax.Array:
        return function(prepare(self))


for _name, _function in _UNARY.items():
    _register_unary(_name, _function, lambda x: x)
for _name, _function in _FLOAT_UNARY.items():
    _register_unary(_name, _function, as_float)


def _register_rounding(name: str, function: Any) -> None:
    @register_operator(f"aten.{name}.default")
    def rounding(self: jax.Array) -> jax.Array:
        return function(self) if is_float(self) else self


for _name, _function in _ROUNDING.items():
    _register_rounding(_name, _function)


@register_operator("aten.round.default")
def round_(self: jax.Array) -> jax.Array:
    """Return the nearest integer, halves to even."""
    return jnp.round(self) if is_float(self) else self


@register_operator("aten.round.decimals")
def round_decimals(self: jax.Array, decimals: int) -> jax.Array:
    """Return the number rounded to a number of decimals."""
    scale = 10.0 ** abs(decimals)
    return jnp.round(self * scale) / scale if decimals >= 0 else jnp.round(self / scale) * scale
