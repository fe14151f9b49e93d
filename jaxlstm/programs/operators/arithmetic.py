"""Arithmetic, comparison and logic, element by element, with torch's type promotion and integer division."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxlstm.programs.operators.dtypes import (
    Operand,
    as_array,
    is_float,
    is_integer,
    promoted,
    promoted_floats,
    result_type,
)
from jaxlstm.programs.operators.registry import register_family, register_operator

TENSOR_OR_SCALAR = "Tensor Scalar"
_Binary = Callable[[Array, Array], Array]


def _of_promoted(function: _Binary, self: Array, other: Operand) -> Array:
    return function(*promoted(self, other))


def _of_promoted_floats(function: _Binary, self: Array, other: Operand) -> Array:
    return function(*promoted_floats(self, other))


def _floor_divide(x: Array, y: Array) -> Array:
    """Return the quotient rounded down; a float divided by zero is infinite or NaN, as in torch."""
    return jnp.where(y == 0, x / y, jnp.floor_divide(x, y)) if is_float(x) else jnp.floor_divide(x, y)


def _flat(function: _Binary, is_flat: _Binary) -> _Binary:
    """Return a function whose gradient is 0 where ``is_flat`` holds for its arguments."""

    def flat(x: Array, y: Array) -> Array:
        mask = is_flat(x, y)
        return jnp.where(
            mask, lax.stop_gradient(function(x, y)), function(jnp.where(mask, 1, x), jnp.where(mask, 1, y))
        )

    return flat


def _beside_infinity(function: _Binary, x: Array, y: Array) -> Array:
    """Return a function of two numbers; beside an infinite number, the other has the gradient 0."""
    return function(*(jnp.where(jnp.isposinf(b), lax.stop_gradient(a), a) for a, b in ((x, y), (y, x))))


def _common_divisor(x: Array, y: Array) -> Array:
    """Return the greatest common divisor; jnp.gcd does not end for the smallest integer."""
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    return jnp.gcd(jnp.abs(x).astype(unsigned), jnp.abs(y).astype(unsigned)).astype(x.dtype)


def _common_multiple(x: Array, y: Array) -> Array:
    """Return the least common multiple, 0 beside 0; it wraps as in torch."""
    divisor = _common_divisor(x, y)
    return jnp.abs(x // jnp.where(divisor == 0, 1, divisor) * y)


_COMPARISONS = {
    "eq": jnp.equal,
    "ge greater_equal": jnp.greater_equal,
    "gt greater": jnp.greater,
    "le less_equal": jnp.less_equal,
    "lt less": jnp.less,
    "ne not_equal": jnp.not_equal,
}
_NUMBERS = {
    "bitwise_and __and__": jnp.bitwise_and,
    "bitwise_or __or__": jnp.bitwise_or,
    "bitwise_xor __xor__": jnp.bitwise_xor,
    "fmod": jnp.fmod,
    "mul multiply": operator.mul,
    "remainder": jnp.remainder,
}
_TENSORS = {
    # A number wins over NaN.
    "fmax": lambda x, y: jnp.where((x >= y) | jnp.isnan(y), x, y),
    "fmin": lambda x, y: jnp.where((x <= y) | jnp.isnan(y), x, y),
    "gcd": _common_divisor,
    "lcm": _common_multiple,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "nextafter": jnp.nextafter,
}
_TENSORS_OF_FLOATS = {
    "atan2 arctan2": _flat(jnp.arctan2, lambda x, y: (x == 0) & (y == 0)),
    "hypot": lambda x, y: _beside_infinity(jnp.hypot, jnp.abs(x), jnp.abs(y)),
    "logaddexp": functools.partial(_beside_infinity, jnp.logaddexp),
    "logaddexp2": functools.partial(_beside_infinity, jnp.logaddexp2),
}
register_family(_of_promoted, _COMPARISONS | _NUMBERS, TENSOR_OR_SCALAR, layout="elementwise")
_OF_A_NUMBER = {f"bitwise_{name}": _NUMBERS[f"bitwise_{name} __{name}__"] for name in ("and", "or", "xor")}
_OF_A_NUMBER["remainder"] = _NUMBERS["remainder"]
register_family(_of_promoted, _OF_A_NUMBER, "Scalar_Tensor", layout="elementwise")
register_family(_of_promoted, _TENSORS, layout="elementwise")
register_family(_of_promoted, {"kron": jnp.kron})
_SHIFTS = {"left_shift": jnp.left_shift, "right_shift": jnp.right_shift}
for _name, _shift in _SHIFTS.items():
    _overloads = "Tensor Tensor_Scalar Scalar_Tensor"
    register_family(_of_promoted, {f"bitwise_{_name}": _shift}, _overloads, layout="elementwise")
    _short = {f"__{_name[0]}shift__": _shift}
    register_family(_of_promoted, _short, TENSOR_OR_SCALAR, layout="elementwise")
register_family(_of_promoted, {"max": jnp.maximum, "min": jnp.minimum}, "other", layout="elementwise")
register_family(_of_promoted, {"floor_divide": _floor_divide}, "default Scalar Tensor", layout="elementwise")
register_family(_of_promoted_floats, _TENSORS_OF_FLOATS, layout="elementwise")
register_family(
    _of_promoted_floats,
    {"copysign": _flat(jnp.copysign, lambda x, y: x == 0), "div divide true_divide": operator.truediv},
    TENSOR_OR_SCALAR,
    layout="elementwise",
)


@register_operator("aten.add.Tensor", "aten.add.Scalar", layout="elementwise")
def add(self: Array, other: Operand, alpha: Operand = 1) -> Array:
    """Return ``self + alpha * other``."""
    self, other = promoted(self, other)
    if self.dtype == jnp.bool_:
        return self | (other if alpha else jnp.zeros_like(other))
    return self + _scaled(other, alpha)


def _difference(function: Callable[..., Array], self: Array, other: Operand, alpha: Operand = 1) -> Array:
    return function(*promoted(self, other), alpha)


_DIFFERENCES: dict[str, Callable[..., Array]] = {
    "sub subtract": lambda x, y, alpha: x - _scaled(y, alpha),
    "rsub": lambda x, y, alpha: y - _scaled(x, alpha),
}
register_family(_difference, _DIFFERENCES, TENSOR_OR_SCALAR, layout="elementwise")


@register_operator(
    *(f"aten.{name}.{kind}_mode" for name in ("div", "divide") for kind in ("Tensor", "Scalar")),
    layout="elementwise",
)
def div_mode(self: Array, other: Operand, rounding_mode: str | None = None) -> Array:
    """Return the quotient, exact (None) or rounded to zero ("trunc") or down ("floor")."""
    if rounding_mode is None:
        return _of_promoted_floats(operator.truediv, self, other)
    self, other = promoted(self, other)
    if rounding_mode == "floor":
        return _floor_divide(self, other)
    return lax.div(*jnp.broadcast_arrays(self, other)) if is_integer(self) else jnp.trunc(self / other)


@register_operator(
    "aten.pow.Tensor_Tensor",
    "aten.pow.Tensor_Scalar",
    "aten.pow.Scalar",
    "aten.pow.Tensor",
    layout="elementwise",
)
def pow(self: Operand, exponent: Operand) -> Array:
    """Return ``self ** exponent``; integers to a negative integer power are refused, as in torch."""
    dtype = result_type(self, exponent)
    if isinstance(exponent, int) and not is_float(dtype) and exponent < 0:
        raise ValueError(f"integers to negative integer powers are not allowed, got exponent={exponent}")
    if isinstance(exponent, int) or (isinstance(exponent, float) and exponent.is_integer()):
        # A static exponent has a gradient at zero and negative numbers.
        return lax.integer_pow(as_array(self, dtype), int(exponent))
    return _power(as_array(self, dtype), as_array(exponent, dtype))


@jax.custom_jvp
def _power(x: Array, exponent: Array) -> Array:
    """Return ``x ** exponent`` with torch's gradients, also where the number, the exponent or both are 0."""
    return jnp.power(x, exponent)


def _power_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, exponent = primals
    result = _power(x, exponent)
    tangent = jnp.zeros_like(result)
    if not isinstance(tangents[0], SymbolicZero):
        slope = exponent * _power(x, jnp.where(exponent == 0, 1, exponent - 1))
        tangent += jnp.where(exponent == 0, 0, slope) * tangents[0]
    if not isinstance(tangents[1], SymbolicZero):
        is_flat = (x == 0) & (exponent.real >= 0)
        slope = result * jnp.log(jnp.where(is_flat, 1, x))
        tangent += jnp.where(is_flat, 0, slope) * tangents[1]
    return result, tangent


_power.defjvp(_power_jvp, symbolic_zeros=True)


@register_operator(
    *(f"aten.{name}.{kind}" for name in ("clamp", "clip", "clamp_min") for kind in ("default", "Tensor")),
    layout="elementwise",
)
def clamp(self: Array, min: Operand | None = None, max: Operand | None = None) -> Array:
    """Return ``self`` between two bounds; ``max`` wins where the bounds cross.

    NaN wins. At a bound, ``self`` has the whole gradient, as in torch; jnp.maximum would share it.
    """
    dtype = result_type(*(bound for bound in (self, min, max) if bound is not None))
    result = as_array(self, dtype)
    if min is not None:
        low = _bound(min, dtype)
        result = jnp.where((result < low) | (low != low), low, result)
    if max is not None:
        high = _bound(max, dtype)
        result = jnp.where((result > high) | (high != high), high, result)
    return result


def _bound(bound: Operand, dtype: Any) -> Array:
    """Return a bound as an array; JAX may hold int64 in 32 bits, and no element is beyond their range."""
    if isinstance(bound, int) and np.dtype(dtype).kind == "i":
        limits = np.iinfo(dtype)
        bound = min(max(bound, int(limits.min)), int(limits.max))
    return as_array(bound, dtype)


@register_operator("aten.clamp_max.default", "aten.clamp_max.Tensor", layout="elementwise")
def clamp_max(self: Array, max: Operand) -> Array:
    """Return the smaller of ``self`` and a bound."""
    return clamp(self, None, max)


@register_operator("aten.lerp.Scalar", "aten.lerp.Tensor", layout="elementwise")
def lerp(self: Array, end: Array, weight: Operand) -> Array:
    """Return the linear interpolation from ``self`` (weight 0) to ``end`` (weight 1)."""
    weight = as_array(weight, self.dtype)
    # As in torch, exact at both ends.
    return jnp.where(jnp.abs(weight) < 0.5, self + weight * (end - self), end - (end - self) * (1 - weight))


def _add_scaled(function: _Binary, self: Array, tensor1: Array, tensor2: Array, value: Operand = 1) -> Array:
    self, tensor1, tensor2 = promoted(self, tensor1, tensor2)
    return self + _scaled(function(tensor1, tensor2), value)


register_family(_add_scaled, {"addcmul": operator.mul, "addcdiv": operator.truediv}, layout="elementwise")


def _scaled(x: Array, factor: Operand) -> Array:
    """Return ``x * factor`` in the dtype of ``x``."""
    return x if factor == 1 else x * jnp.asarray(factor).astype(x.dtype)


@register_operator(
    "aten.where.self",
    "aten.where.ScalarOther",
    "aten.where.ScalarSelf",
    "aten.where.Scalar",
    layout="elementwise",
)
def where(condition: Array, self: Operand, other: Operand) -> Array:
    """Return ``self`` where the condition holds, else ``other``."""
    return jnp.where(condition.astype(bool), *promoted(self, other))


@register_operator("aten.isclose.default")
def isclose(
    self: Array, other: Array, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Array:
    """Return True where the difference is at most ``atol + rtol * |other|``."""
    return jnp.isclose(self, other, rtol, atol, equal_nan)


@register_operator("aten.heaviside.default")
def heaviside(self: Array, values: Array) -> Array:
    """Return 0 for negative numbers and NaN, 1 for positive ones, and ``values`` at 0."""
    return jnp.where(self == 0, values, (self > 0).astype(values.dtype))


@register_operator(
    *(f"aten.xlogy.{overload}" for overload in ("Tensor", "Scalar_Other", "Scalar_Self")),
    *(f"aten.special_xlogy.{overload}" for overload in ("default", "other_scalar", "self_scalar")),
)
def xlogy(self: Operand, other: Operand) -> Array:
    """Return ``self * log(other)``, and 0 where ``self`` is 0 unless ``other`` is NaN."""
    self, other = promoted_floats(self, other)
    # The gradient is 0 there, too, so the logarithm must be finite.
    is_zero = (self == 0) & ((other <= 0) | jnp.isinf(other))
    return self * jnp.log(jnp.where(is_zero, 1, other))
