"""Templates of elementwise operators: arithmetic, comparisons, functions of one tensor, activations.

Where a function of JAX has another subgradient at a single point than torch's, such as ``jnp.clip`` at its
bounds and ``jnp.abs`` at 0, the template has JAX's.
"""

import numpy as np

from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode, of_floats


def promoted(template: str, *names: str) -> Rule:
    """Return the template where JAX promotes the dtypes of those arguments as torch does."""
    names = names or ("self", "other")

    def rule(operation: TypedNode) -> str | None:
        if not operation.promotes(*names):
            return None
        if operation.arguments.get("alpha") in (None, 1):
            return template
        *first, second = template.split()
        return " ".join([*first, "alpha *", second]) if operation.is_float() else None

    return rule


def _divided(operation: TypedNode) -> str | None:
    if not operation.promotes("self", "other"):
        return None
    mode, divisor = operation.arguments.get("rounding_mode"), operation["other"]
    if mode == "trunc":
        has_integers = isinstance(divisor, int) and divisor != 0 and not operation.is_float("self")
        return "lax.div(self, other)" if has_integers else None
    return {None: "self / other", "floor": _floor_divided(operation)}.get(mode)


def _floor_divided(operation: TypedNode) -> str | None:
    """Return the quotient rounded down. JAX and torch divide floats by zero differently."""
    divisor = operation["other"]
    is_safe = isinstance(divisor, int | float) and divisor != 0
    types = operation.tensors("self", "other")
    has_integers = all(type_.dtype.kind in "iu" for type_ in types) and not isinstance(divisor, float)
    return "self // other" if operation.promotes("self", "other") and (is_safe or has_integers) else None


def _power(operation: TypedNode) -> str | None:
    base, exponent = operation["self"], operation["exponent"]
    # JAX's gradient is NaN where a number and an exponent that is an array are 0.
    is_constant = isinstance(exponent, int | float) or (isinstance(base, int | float) and base != 0)
    has_floats = any(map(operation.is_float, ("self", "exponent")))
    if (has_floats and not is_constant) or not operation.promotes("self", "exponent"):
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


# The kind of a dtype -> the numbers that keep it when they replace an element.
_NUMBERS_IN = {"b": bool, "i": int, "u": int}
_OF_TWO = {
    "self + other": "add",
    "self - other": "sub subtract",
    "other - self": "rsub",
    "self * other": "mul multiply",
    "self % other": "remainder",
    "self & other": "bitwise_and __and__",
    "self | other": "bitwise_or __or__",
    "self ^ other": "bitwise_xor __xor__",
    "self == other": "eq",
    "self != other": "ne not_equal",
    "self < other": "lt less",
    "self <= other": "le less_equal",
    "self > other": "gt greater",
    "self >= other": "ge greater_equal",
    "jnp.maximum(self, other)": "maximum max.other",
    "jnp.minimum(self, other)": "minimum min.other",
}
_OF_NUMBERS = {
    **{f"a{name}": f"arc{name}" for name in ("cos", "cosh", "sin", "sinh", "tan", "tanh")},
    **{name: name for name in ("cos", "cosh", "sin", "sinh", "tan", "exp", "exp2", "expm1", "sqrt")},
    **{name: name for name in ("log", "log10", "log1p", "log2", "sign", "square", "logical_not")},
    **{name: name for name in ("isnan", "isinf", "isfinite", "abs", "angle", "real", "imag")},
    "absolute": "abs",
    **dict.fromkeys(("conj", "_conj", "conj_physical"), "conj"),
}
_OF_FLOATS: dict[str, Rule] = {
    "relu6": "nnx.relu6(self)",
    "hardtanh": "jnp.clip(self, min_val, max_val)",
    "leaky_relu": "nnx.leaky_relu(self, negative_slope=negative_slope)",
    "elu": lambda op: "nnx.elu(self, alpha=alpha)" if op["scale"] == op["input_scale"] == 1 else None,
    "celu": "nnx.celu(self, alpha=alpha)",
    "selu": "nnx.selu(self)",
    "gelu": lambda op: f"nnx.gelu(self, approximate={op['approximate'] == 'tanh'})",
    "silu": "nnx.silu(self)",
    "mish": "jax.nn.mish(self)",
    "hardsigmoid": "nnx.hard_sigmoid(self)",
    "hardswish": "nnx.hard_swish(self)",
    "log_sigmoid": "nnx.log_sigmoid(self)",
    "sigmoid": "nnx.sigmoid(self)",
    "tanh": "jnp.tanh(self)",
    "softplus": _softplus,
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
    **{name: f"lax.{name}(self)" for name in ("erf", "erfc")},
    "erfinv": "lax.erf_inv(self)",
    "lerp": "self + weight * (end - self)",
    **{name: f"jnp.{name}(self)" for name in ("ceil", "floor", "trunc")},
    "round.default": "jnp.round(self)",
    "nan_to_num": "jnp.nan_to_num(self, nan=nan, posinf=posinf, neginf=neginf)",
}
RULES: dict[str, Rule] = {
    **{name: promoted(template) for template, names in _OF_TWO.items() for name in names.split()},
    **{name: f"jnp.{function}(self)" for name, function in _OF_NUMBERS.items()},
    **{name: of_floats(rule) for name, rule in _OF_FLOATS.items()},
    **dict.fromkeys(("div", "divide", "true_divide"), _divided),
    "floor_divide": _floor_divided,
    "pow": _power,
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max"), _clamped),
    "masked_fill": _masked,
    "where": _where,
    **{f"logical_{name}": f"jnp.logical_{name}(self, other)" for name in ("and", "or", "xor")},
    "bitwise_not": "~self",
    **dict.fromkeys(("neg", "negative"), "-self"),
    "reciprocal": "1 / self",
    "rsqrt": lambda operation: "lax.rsqrt(self)" if operation.is_float() else "1 / jnp.sqrt(self)",
    "relu": "nnx.relu(self)",
}
