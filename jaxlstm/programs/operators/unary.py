"""Functions of one tensor, element by element, and rounding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.dtypes import as_float, in_float32, is_float
from jaxlstm.programs.operators.registry import register_family, register_operator


def magnitude(x: Array) -> Array:
    """Return the absolute value, with torch's gradient 0 at 0."""
    return jnp.abs(x) if jnp.iscomplexobj(x) else jnp.where(x == 0, jnp.zeros_like(x), jnp.abs(x))


def power(x: Array, exponent: float) -> Array:
    """Return a power of numbers that are not negative, with torch's gradient 0 at 0."""
    is_zero = x == 0
    safe = jnp.where(is_zero, 1, x)
    powers = jnp.sqrt(safe) if exponent == 0.5 else safe**exponent
    return jnp.where(is_zero, 0 if exponent > 0 else jnp.inf, powers)


def signum(x: Array) -> Array:
    """Return x / abs(x), and 0 at 0 and for NaN. Unlike jnp.sign, it has a gradient for complex numbers."""
    if not jnp.iscomplexobj(x):
        return jnp.where(x != x, jnp.zeros_like(x), jnp.sign(x))
    is_zero = x == 0
    return jnp.where(is_zero, 0, x / jnp.where(is_zero, 1, jnp.abs(x)))


@jax.custom_jvp
def lgamma(x: Array) -> Array:
    """Return the logarithm of the absolute gamma function, with the gradient `digamma`."""
    return jax.lax.lgamma(x)


@jax.custom_jvp
def digamma(x: Array) -> Array:
    """Return the derivative of `lgamma`: at 0 an infinity, as in torch. JAX's gradient is wrong below 0."""
    return jnp.where(x == 0, jnp.copysign(jnp.inf, -x), jax.lax.digamma(x))


def _trigamma(x: Array) -> Array:
    reflects = x < 0.5
    of_positive = jax.scipy.special.polygamma(1, jnp.where(reflects, 1 - x, x))
    of_positive = jnp.where(jnp.isposinf(x), 0, of_positive)
    return jnp.where(reflects, (jnp.pi / jnp.sin(jnp.pi * x)) ** 2 - of_positive, of_positive)


lgamma.defjvps(lambda change, result, x: change * digamma(x))
digamma.defjvps(lambda change, result, x: change * _trigamma(x))


def _sinc(x: Array) -> Array:
    """Return sin(pi x) / (pi x), and 1 at 0; a series near 0, where the gradient of the quotient is noise."""
    y = jnp.pi * x
    is_small = jnp.abs(y) < 0.5
    square = jnp.where(is_small, y, 0) ** 2
    series = functools.reduce(lambda sum, n: 1 - sum * square / (2 * n * (2 * n + 1)), range(8, 0, -1), 1)
    safe = jnp.where(is_small, 1, y)
    return jnp.where(is_small, series, jnp.sin(safe) / safe)


_SAME_DTYPE: dict[str, Any] = {
    "abs absolute": magnitude,
    "bitwise_not": jnp.bitwise_not,
    "frac": lambda x: x - jnp.trunc(x),
    "isfinite": lambda x: jnp.isfinite(x) if is_float(x) else jnp.ones_like(x, bool),
    "isinf": lambda x: jnp.isinf(x) if is_float(x) else jnp.zeros_like(x, bool),
    "isnan": lambda x: x != x,
    "isneginf": lambda x: x == -jnp.inf,
    "isposinf": lambda x: x == jnp.inf,
    "logical_not": jnp.logical_not,
    "neg negative": jnp.negative,
    "sgn sign": signum,
    "signbit": lambda x: jnp.signbit(x) if is_float(x) else x < 0,
    "square": jnp.square,
}
_ROUNDING: dict[str, Any] = {
    "ceil": jnp.ceil,
    "floor": jnp.floor,
    "round": jnp.round,  # halves to even
    "trunc fix": jnp.trunc,
}
_OF_FLOATS: dict[str, Any] = {
    "acos arccos": jnp.arccos,
    "acosh arccosh": jnp.arccosh,
    "asin arcsin": jnp.arcsin,
    "asinh arcsinh": jnp.arcsinh,
    "atan arctan": jnp.arctan,
    "atanh arctanh": jnp.arctanh,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "deg2rad": jnp.deg2rad,
    "digamma special_digamma special_psi": in_float32(digamma),
    "erf special_erf": jax.lax.erf,
    "erfc special_erfc": jax.lax.erfc,
    "erfinv special_erfinv": in_float32(jax.lax.erf_inv),
    "exp": jnp.exp,
    "exp2 special_exp2": jnp.exp2,
    "expm1 special_expm1": jnp.expm1,
    "lgamma special_gammaln": in_float32(lgamma),
    "i0 special_i0": in_float32(lambda x: jnp.exp(magnitude(x)) * jax.scipy.special.i0e(x)),
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p special_log1p": jnp.log1p,
    "log2": jnp.log2,
    "rad2deg": jnp.rad2deg,
    "reciprocal": jnp.reciprocal,
    "rsqrt": jax.lax.rsqrt,
    "sin": jnp.sin,
    "sinc special_sinc": in_float32(_sinc),
    "sinh": jnp.sinh,
    "special_entr": in_float32(jax.scipy.special.entr),
    "special_i0e": in_float32(jax.scipy.special.i0e),
    "special_i1": in_float32(jax.scipy.special.i1),
    "special_i1e": in_float32(jax.scipy.special.i1e),
    "special_log_ndtr": in_float32(jax.scipy.special.log_ndtr),
    "special_ndtr": in_float32(jax.scipy.special.ndtr),
    "special_ndtri": in_float32(jax.scipy.special.ndtri),
    "sqrt": jnp.sqrt,
    "tan": jnp.tan,
}


def of_tensor(function: Any, self: Array) -> Array:
    """Return a function of a tensor: a form of :func:`register_family`."""
    return function(self)


def of_floats(function: Any, self: Array) -> Array:
    """Return a function of a tensor, in which integers are float32: a form of :func:`register_family`."""
    return function(as_float(self))


def _rounded(function: Any, self: Array) -> Array:
    return function(self) if is_float(self) else self


register_family(of_tensor, _SAME_DTYPE, layout="elementwise")
register_family(of_floats, _OF_FLOATS, layout="elementwise")
register_family(_rounded, _ROUNDING, layout="elementwise")


@register_operator("aten.round.decimals", "aten.special_round.default")
def round_decimals(self: Array, decimals: int = 0) -> Array:
    """Return the number rounded to a number of decimals, halves to even."""
    if decimals == 0:
        return _rounded(jnp.round, self)
    scale = 10.0 ** abs(decimals)
    return jnp.round(self * scale) / scale if decimals >= 0 else jnp.round(self / scale) * scale


@register_operator("aten.logit.default", "aten.special_logit.default", layout="elementwise")
@in_float32
def logit(self: Array, eps: float | None = None) -> Array:
    """Return log(x / (1 - x)), with x between ``eps`` and 1 - ``eps``."""
    x = as_float(self)
    if eps is not None:
        inside = (x >= eps) & (x <= 1 - eps)
        x = jnp.where(inside, x, jnp.clip(jax.lax.stop_gradient(x), eps, 1 - eps))
    return jnp.log(x / (1 - x))


@register_operator("aten.nan_to_num.default", layout="elementwise")
def nan_to_num(
    self: Array, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Array:
    """Replace NaN by a number (0 for None), and infinity by a number (the largest of the dtype for None)."""
    return jnp.nan_to_num(self, nan=nan or 0.0, posinf=posinf, neginf=neginf) if is_float(self) else self
