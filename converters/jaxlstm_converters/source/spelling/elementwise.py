"""Templates of elementwise operators: arithmetic, comparisons, functions of one tensor, activations.

Where a function of JAX has another subgradient at a single point than torch's, such as ``jnp.clip`` at its
bounds and ``jnp.abs`` at 0, the template has JAX's.
"""

from __future__ import annotations

import numpy as np

from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode


def promoted(template: str, *names: str) -> Rule:
    """Return the template where JAX promotes the dtypes of those arguments as torch does."""
    names = names or ("self", "other")
    return lambda operation: template if operation.promotes(*names) else None


def of_floats(rule: Rule) -> Rule:
    """Return the rule for tensors that are all float32 or float64."""

    def guarded(operation: TypedNode) -> str | None:
        if not operation.is_float():
            return None
        return rule if isinstance(rule, str) else rule(operation)

    return guarded


def _scaled(plain: str, scaled: str) -> Rule:
    """Return the rule of an operator with a factor ``alpha``, which is 1 as a rule."""

    def rule(operation: TypedNode) -> str | None:
        if not operation.promotes("self", "other"):
            return None
        alpha = operation["alpha"]
        if alpha in (None, 1):
            return plain
        return scaled if operation.is_float() and isinstance(alpha, int | float) else None

    return rule


def _multiplied(operation: TypedNode) -> str | None:
    own, result = operation.type("self"), operation.result
    is_same = own is not None and result is not None and own.dtype == result.dtype
    if operation["other"] == 1 and is_same:
        return "self"
    return "self * other" if operation.promotes("self", "other") else None


def _divided(operation: TypedNode) -> str | None:
    if not operation.promotes("self", "other"):
        return None
    mode, is_float = operation.arguments.get("rounding_mode"), operation.is_float()
    if mode == "floor":
        return _floor_divided(operation)
    if mode == "trunc":
        return "jnp.trunc(self / other)" if is_float else None
    return "self / other"


def _floor_divided(operation: TypedNode) -> str | None:
    """Return the quotient rounded down. JAX and torch divide floats by zero differently."""
    divisor = operation["other"]
    is_safe = isinstance(divisor, int | float) and divisor != 0
    types = operation.tensors("self", "other")
    has_integers = all(type_.dtype.kind in "iu" for type_ in types) and not isinstance(divisor, float)
    return "self // other" if operation.promotes("self", "other") and (is_safe or has_integers) else None


def _power(operation: TypedNode) -> str | None:
    exponent = operation["exponent"]
    if not operation.promotes("self", "exponent"):
        return None
    if isinstance(exponent, float) and exponent.is_integer():
        # JAX multiplies for integers only, and has then a gradient at 0.
        operation.extra["whole"] = int(exponent)
        return "self ** whole" if operation.is_float("self") else None
    return "self ** exponent"


def _clamped(operation: TypedNode) -> str | None:
    bounds = [name for name in ("min", "max") if operation.arguments.get(name) is not None]
    if not operation.promotes("self", *bounds):
        return None
    functions = {("min", "max"): "jnp.clip(self, min, max)", ("min",): "jnp.maximum(self, min)"}
    return functions.get(tuple(bounds), "jnp.minimum(self, max)")


def _masked(operation: TypedNode) -> str | None:
    value, own = operation["value"], operation.type("self")
    if own is None or not operation.promotes("self", "value"):
        return None
    if isinstance(value, bool | int | float):
        fits = isinstance(value, _NUMBERS_IN.get(own.dtype.kind, float | int))
    else:
        fits = [type_.dtype for type_ in operation.tensors("value")] == [own.dtype]
    return "jnp.where(mask, value, self)" if fits else None


def _where(operation: TypedNode) -> str | None:
    condition = operation.type("condition")
    is_bool = condition is not None and condition.dtype == np.bool_
    return "jnp.where(condition, self, other)" if is_bool and operation.promotes("self", "other") else None


def _logical(symbol: str, function: str) -> Rule:
    def rule(operation: TypedNode) -> str:
        is_bool = all(type_.dtype == np.bool_ for type_ in operation.tensors())
        return f"self {symbol} other" if is_bool else f"jnp.{function}(self, other)"

    return rule


def _logical_not(operation: TypedNode) -> str:
    is_bool = all(type_.dtype == np.bool_ for type_ in operation.tensors())
    return "~self" if is_bool else "jnp.logical_not(self)"


def _rounded(function: str) -> Rule:
    """Return the rule of a function that leaves integers as they are."""

    def rule(operation: TypedNode) -> str | None:
        if operation.arguments.get("decimals"):
            return None
        return f"jnp.{function}(self)" if operation.is_float() or operation.is_half() else "self"

    return rule


def _part(name: str) -> Rule:
    """Return the rule of a part of complex numbers."""
    return lambda op: f"self.{name}" if all(t.dtype.kind == "c" for t in op.tensors()) else None


def _hardtanh(operation: TypedNode) -> str:
    bounds = (operation["min_val"], operation["max_val"])
    functions = {(-1, 1): "nnx.hard_tanh(self)", (0, 6): "nnx.relu6(self)"}
    return functions.get(bounds, "jnp.clip(self, min_val, max_val)")


def _elu(operation: TypedNode) -> str | None:
    scales = (operation["scale"], operation["input_scale"])
    return "nnx.elu(self, alpha=alpha)" if scales == (1, 1) else None


def _gelu(operation: TypedNode) -> str:
    return f"nnx.gelu(self, approximate={operation['approximate'] == 'tanh'})"


def _softplus(operation: TypedNode) -> str | None:
    # Beyond torch's threshold, the difference is smaller than its rounding in float32.
    if operation["threshold"] < 20:
        return None
    return "nnx.softplus(self)" if operation["beta"] == 1 else "nnx.softplus(beta * self) / beta"


def _prelu(operation: TypedNode) -> str | None:
    weight = operation.type("weight")
    if weight is None or (weight.shape != (1,) and not operation.channels_last and operation.ndim() != 2):
        return None
    return "jnp.where(self > 0, self, weight * self)" if operation.ndim() else None


def _added(function: str) -> Rule:
    """Return the rule of a product or quotient that is added, times ``value``."""

    def rule(operation: TypedNode) -> str | None:
        if not (operation.is_float() and operation.promotes("self", "tensor1", "tensor2")):
            return None
        one = f"self + tensor1 {function} tensor2"
        return one if operation["value"] == 1 else f"self + value * tensor1 {function} tensor2"

    return rule


# The kind of a dtype -> the numbers that keep it when they replace an element.
_NUMBERS_IN = {"b": bool, "i": int, "u": int}
_INFIX = {
    "remainder": "%",
    "bitwise_and": "&",
    "__and__": "&",
    "bitwise_or": "|",
    "__or__": "|",
    "bitwise_xor": "^",
    "__xor__": "^",
    **dict.fromkeys(("eq",), "=="),
    **dict.fromkeys(("ne", "not_equal"), "!="),
    **dict.fromkeys(("lt", "less"), "<"),
    **dict.fromkeys(("le", "less_equal"), "<="),
    **dict.fromkeys(("gt", "greater"), ">"),
    **dict.fromkeys(("ge", "greater_equal"), ">="),
}
_OF_TWO = {
    "maximum": "maximum",
    "minimum": "minimum",
    "max.other": "maximum",
    "min.other": "minimum",
    "fmod": "fmod",
    "atan2": "arctan2",
    "arctan2": "arctan2",
    "hypot": "hypot",
    "logaddexp": "logaddexp",
    "logaddexp2": "logaddexp2",
    "copysign": "copysign",
}
_OF_NUMBERS = {
    **{f"a{name}": f"arc{name}" for name in ("cos", "cosh", "sin", "sinh", "tan", "tanh")},
    **{f"arc{name}": f"arc{name}" for name in ("cos", "cosh", "sin", "sinh", "tan", "tanh")},
    **{name: name for name in ("cos", "cosh", "sin", "sinh", "tan", "deg2rad", "rad2deg")},
    **{name: name for name in ("exp", "exp2", "expm1", "log", "log10", "log1p", "log2", "sqrt")},
    **{f"special_{name}": name for name in ("exp2", "expm1", "log1p")},
}
_ACTIVATIONS: dict[str, Rule] = {
    "relu6": "nnx.relu6(self)",
    "hardtanh": _hardtanh,
    "leaky_relu": "nnx.leaky_relu(self, negative_slope=negative_slope)",
    "elu": _elu,
    "celu": "nnx.celu(self, alpha=alpha)",
    "selu": "nnx.selu(self)",
    "gelu": _gelu,
    "silu": "nnx.silu(self)",
    "mish": "jax.nn.mish(self)",
    "hardsigmoid": "nnx.hard_sigmoid(self)",
    "hardswish": "nnx.hard_swish(self)",
    "log_sigmoid": "nnx.log_sigmoid(self)",
    "sigmoid": "nnx.sigmoid(self)",
    "special_expit": "nnx.sigmoid(self)",
    "tanh": "jnp.tanh(self)",
    "softplus": _softplus,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "threshold": "jnp.where(self > threshold, self, value)",
    "hardshrink": "jnp.where(jnp.abs(self) > lambd, self, 0)",
    "erf": "lax.erf(self)",
    "special_erf": "lax.erf(self)",
    "erfc": "lax.erfc(self)",
    "rsqrt": "lax.rsqrt(self)",
    "sinc": "jnp.sinc(self)",
    "special_sinc": "jnp.sinc(self)",
    "frac": "self - jnp.trunc(self)",
    "lerp.Scalar": "self + weight * (end - self)",
    "lerp.Tensor": "self + weight * (end - self)",
}
_RULES: dict[str, Rule] = {
    "add": _scaled("self + other", "self + alpha * other"),
    "sub": _scaled("self - other", "self - alpha * other"),
    "subtract": _scaled("self - other", "self - alpha * other"),
    "rsub": _scaled("other - self", "other - alpha * self"),
    **dict.fromkeys(("mul", "multiply"), _multiplied),
    **dict.fromkeys(("div", "divide", "true_divide"), _divided),
    "floor_divide": _floor_divided,
    "pow": _power,
    "addcmul": _added("*"),
    "addcdiv": _added("/"),
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max"), _clamped),
    "masked_fill": _masked,
    "where": _where,
    "logical_and": _logical("&", "logical_and"),
    "logical_or": _logical("|", "logical_or"),
    "logical_xor": _logical("^", "logical_xor"),
    "logical_not": _logical_not,
    "bitwise_not": "~self",
    "neg": "-self",
    "negative": "-self",
    "abs": "jnp.abs(self)",
    "absolute": "jnp.abs(self)",
    "sign": "jnp.sign(self)",
    "square": "jnp.square(self)",
    "reciprocal": "1 / self",
    "real": _part("real"),
    "imag": _part("imag"),
    "complex": "lax.complex(real, imag)",
    "isnan": "jnp.isnan(self)",
    "isinf": "jnp.isinf(self)",
    "isfinite": "jnp.isfinite(self)",
    "relu": "nnx.relu(self)",
    **{name: _rounded(name) for name in ("ceil", "floor", "round", "trunc")},
    "nan_to_num": of_floats("jnp.nan_to_num(self, nan=nan, posinf=posinf, neginf=neginf)"),
    "logit": of_floats(lambda op: "jnp.log(self / (1 - self))" if op["eps"] is None else None),
}
RULES: dict[str, Rule] = {
    **{name: promoted(f"self {symbol} other") for name, symbol in _INFIX.items()},
    **{name: promoted(f"jnp.{function}(self, other)") for name, function in _OF_TWO.items()},
    **{name: f"jnp.{function}(self)" for name, function in _OF_NUMBERS.items()},
    **{name: of_floats(rule) for name, rule in _ACTIVATIONS.items()},
    **_RULES,
}
