"""Functions of one tensor, element by element, and rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.programs.operators.dtypes import as_float, in_float32, is_float
from jaxlstm.programs.operators.registry import register_operator


def magnitude(x: jax.Array) -> jax.Array:
    """Return the absolute value, with torch's gradient 0 at 0."""
    return jnp.abs(x) if jnp.iscomplexobj(x) else jnp.where(x == 0, jnp.zeros_like(x), jnp.abs(x))


def signum(x: jax.Array) -> jax.Array:
    """Return x / abs(x), and 0 at 0 and for NaN. Unlike jnp.sign, it has a gradient for complex numbers."""
    if not jnp.iscomplexobj(x):
        return jnp.where(x != x, jnp.zeros_like(x), jnp.sign(x))
    is_zero = x == 0
    return jnp.where(is_zero, 0, x / jnp.where(is_zero, 1, jnp.abs(x)))


_UNARY: dict[str, Any] = {
    "abs": magnitude,
    "bitwise_not": jnp.bitwise_not,
    "neg": jnp.negative,
    "sgn": signum,
    "sign": signum,
    "square": jnp.square,
}
_ROUNDING: dict[str, Any] = {"ceil": jnp.ceil, "floor": jnp.floor, "trunc": jnp.trunc}
_FLOAT_UNARY: dict[str, Any] = {
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atanh": jnp.arctanh,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "deg2rad": jnp.deg2rad,
    "erf": jax.lax.erf,
    "erfc": jax.lax.erfc,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "rad2deg": jnp.rad2deg,
    "reciprocal": jnp.reciprocal,
    "rsqrt": jax.lax.rsqrt,
    "sin": jnp.sin,
    "sinc": in_float32(jnp.sinc),
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


@register_operator("aten.round.decimals", "aten.special_round.default")
def round_decimals(self: jax.Array, decimals: int = 0) -> jax.Array:
    """Return the number rounded to a number of decimals."""
    if decimals == 0:
        return round_(self)
    scale = 10.0 ** abs(decimals)
    return jnp.round(self * scale) / scale if decimals >= 0 else jnp.round(self / scale) * scale


@register_operator("aten.frac.default")
def frac(self: jax.Array) -> jax.Array:
    """Return the number without its integral part, with its sign."""
    return self - jnp.trunc(self)


@register_operator("aten.logit.default")
def logit(self: jax.Array, eps: float | None = None) -> jax.Array:
    """Return log(x / (1 - x)), with x between ``eps`` and 1 - ``eps``."""
    return _logit(as_float(self), eps)


@in_float32
def _logit(x: jax.Array, eps: float | None) -> jax.Array:
    if eps is not None:
        inside = (x >= eps) & (x <= 1 - eps)
        x = jnp.where(inside, x, jnp.clip(jax.lax.stop_gradient(x), eps, 1 - eps))
    return jnp.log(x / (1 - x))


@register_operator("aten.nan_to_num.default")
def nan_to_num(
    self: jax.Array, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> jax.Array:
    """Replace NaN by a number (0 for None), and infinity by a number (the largest of the dtype for None)."""
    return jnp.nan_to_num(self, nan=nan or 0.0, posinf=posinf, neginf=neginf) if is_float(self) else self
