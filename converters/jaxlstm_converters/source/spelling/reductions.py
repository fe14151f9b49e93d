"""Templates of reductions, orders, and matrix products."""

from functools import partial

import numpy as np

from jaxlstm_converters.source.spelling.shapes import converted
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode, of_floats, only_if, with_axes

_WHOLE = (np.dtype(np.int64), np.dtype(bool))


def _over(operation: TypedNode) -> str:
    """Return the keywords for the axes of a reduction; None and () mean all of them."""
    dim = operation.arguments.get("dim")
    if dim in (None, ()):
        operation.extra["place"] = None
    else:
        operation.extra["place"] = dim[0] if isinstance(dim, tuple) and len(dim) == 1 else dim
    return "axis=place, keepdims=keepdim" if "keepdim" in operation.arguments else "axis=place"


def _reduced(method: str) -> Rule:
    """Return a method of the array, for tensors with axes."""
    return with_axes(lambda operation: f"self.{method}({_over(operation)})")


def _sum(method: str, operation: TypedNode) -> str | None:
    """Return a sum or product. Sums of integers are int64 in torch unless they have a dtype."""
    own, result, over = operation.type("self"), operation.result, _over(operation)
    if own is None or result is None or not own.shape:
        return None
    if own.dtype.kind in "biu" and not (own.dtype in _WHOLE and result.dtype == np.int64):
        operation.extra["to"] = result.dtype
        return f"self.{method}({over}, dtype=to)"
    if own.dtype.kind not in "biu" and result.dtype != own.dtype:
        return None
    if method == "cumsum" and own.dtype.kind == "f":
        # On CPUs, XLA computes wrong gradients of one element of jnp.cumsum, see programs/operators/.
        return f"lax.associative_scan(jnp.add, self, {over})"
    return f"self.{method}({over})"


def _norm(operation: TypedNode) -> str | None:
    """Return a sum or root. A bound below it makes the gradient of the norm of zeros 0 instead of NaN."""
    order = operation["ord"]
    if order not in (None, 1, 2) or operation["dtype"] is not None or not operation.is_float():
        return None
    if order == 1:
        return f"jnp.abs(self).sum({_over(operation)})"
    squares = f"jnp.square(self).sum({_over(operation)})"
    return f"jnp.sqrt(jnp.maximum({squares}, 1e-30))" if operation.ndim() else None


def _extremum(kind: str, operation: TypedNode) -> str:
    over = _over(operation)
    return f"(self.{kind}({over}), self.arg{kind}({over}))"


def _moment(kind: str, operation: TypedNode) -> str:
    correction = operation["correction"]
    operation.extra["removed"] = int(operation["unbiased"]) if correction is None else correction
    return f"self.{kind}({_over(operation)}, ddof=removed)"


def _top(operation: TypedNode) -> str | None:
    is_last = operation.ndim() > 0 and operation.axis(operation["dim"]) == operation.ndim() - 1
    return "lax.top_k(self, k)" if is_last and operation["largest"] and operation.is_float() else None


_ORDER = "jnp.argsort(self, axis=dim, descending=descending)"


def _linear(operation: TypedNode) -> str | None:
    weight = operation.type("weight")
    if operation.is_half() or weight is None:
        return None
    product = "input @ weight.T" if len(weight.shape) == 2 else "input @ weight"
    return product if operation["bias"] is None else f"{product} + bias"


def _rnn_cell(activation: str, operation: TypedNode) -> str | None:
    biases = "".join(f" + {name}" for name in ("b_ih", "b_hh") if operation[name] is not None)
    return None if operation.is_half() else f"{activation}(input @ w_ih.T + hx @ w_hh.T{biases})"


def _lstm_cell(operation: TypedNode) -> str | None:
    tensors = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
    params = ", ".join(f"'{k}': {name}" for k, name in tensors.items() if operation[name] is not None)
    return None if operation.is_half() else f"jaxlstm.lstm_cell({{{params}}}, input, hx)"


def _added(operation: TypedNode) -> str:
    alpha, beta = operation["alpha"], operation["beta"]
    product = "mat1 @ mat2" if alpha == 1 else "alpha * (mat1 @ mat2)"
    return product if beta == 0 else f"{'self' if beta == 1 else 'beta * self'} + {product}"


def _normalized(function: str, operation: TypedNode) -> str | None:
    own, result = converted(operation), operation.result
    if own is None or result is None or result.dtype not in (np.float32, np.float64):
        return None
    operation.extra["place"] = operation.short_axis()
    return f"nnx.{function}({own}, axis=place)"


def _standardized(operation: TypedNode, axes: tuple[int, ...], x: str = "input") -> str:
    """Return an expression divided by its deviation. The function's own variance loses precision."""
    operation.extra["axes"] = axes[0] if len(axes) == 1 else axes
    return f"nnx.standardize({x}, axis=axes, variance={x}.var(axis=axes, keepdims=True), epsilon=eps)"


def _scaled(operation: TypedNode, template: str, index: str = "") -> str:
    """Return a norm by its weights, whose items ``index`` puts in the place of the channels."""
    template += f" * weight{index}" * (operation["weight"] is not None)
    return template + f" + bias{index}" * (operation.arguments.get("bias") is not None)


def _norm_of_last_axes(operation: TypedNode) -> str:
    """Return a norm of the last axes that is not a layer, by the epsilon of its dtype if it has none."""
    axes = tuple(range(-len(operation["normalized_shape"]), 0))
    if "bias" in operation.arguments:
        return _scaled(operation, _standardized(operation, axes))
    operation.extra["axes"] = axes[0] if len(axes) == 1 else axes
    epsilon = "jnp.finfo(input.dtype).eps" if operation["eps"] is None else "eps"
    squares = f"jnp.square(input).mean(axis=axes, keepdims=True) + {epsilon}"
    return _scaled(operation, f"input * lax.rsqrt({squares})")


def _norm_of_channels(operation: TypedNode) -> str:
    """Return a norm of channels that is not a layer, by given statistics or those of its input."""
    ndim, is_last = operation.ndim("input"), operation.channels_last or operation.ndim("input") == 2
    positions = tuple(range(1, ndim - 1) if is_last else range(2, ndim))
    index = "" if is_last else f"[:, {', '.join(['None'] * (ndim - 2))}]"
    groups, of_input = operation.arguments.get("num_groups"), operation.arguments.get("use_input_stats")
    if groups:
        split = "-1, num_groups, input.shape[-1] // num_groups" if is_last else "num_groups, -1"
        x = f"input.reshape(input.shape[0], {split})"
        made = f"{_standardized(operation, (1, 3) if is_last else (-1,), x)}.reshape(input.shape)"
    elif of_input or operation["running_mean"] is None:
        made = _standardized(operation, positions if of_input else (0, *positions))
    else:
        made = f"nnx.standardize(input, mean=running_mean{index}, variance=running_var{index}, epsilon=eps)"
    return _scaled(operation, made, index)


def attention(operation: TypedNode) -> str | None:
    """Return scaled dot-product attention; JAX's has the heads in another axis, and no float64."""
    if not operation.is_float("query", "key", "value") or operation["enable_gqa"]:
        return None
    mask, scale = operation.type("attn_mask"), operation["scale"]
    scores = "query @ key.mT / query.shape[-1] ** 0.5" if scale is None else "scale * (query @ key.mT)"
    is_bool = mask is not None and mask.dtype == np.bool_
    causal = "jnp.tri(query.shape[-2], key.shape[-2], dtype=bool)"
    allowed = [causal] * bool(operation["is_causal"]) + ["attn_mask"] * is_bool
    if mask is not None and not is_bool:
        scores += " + attn_mask"
        allowed.append("(attn_mask > -jnp.inf)")
    # A query without any key gives zeros.
    where = f", where={' & '.join(allowed)}" if allowed else ""
    return f"nnx.softmax({scores}{where}) @ value"


# Unless torch would accumulate a product in a wider dtype.
_plain = partial(only_if, lambda operation: not operation.is_half())
_PRODUCTS = "matmul linalg_matmul bmm mm mv dot"
RULES: dict[str, Rule] = {
    "sum": partial(_sum, "sum"),
    "prod": partial(_sum, "prod"),
    "mean": with_axes(lambda op: f"{own}.mean({_over(op)})" if (own := converted(op)) else None),
    "amax": _reduced("max"),
    "amin": _reduced("min"),
    **{f"{name}.default": _reduced(name) for name in ("max", "min")},
    **{name: _reduced(name) for name in ("any", "all", "argmax", "argmin")},
    **{f"{name}.dim": with_axes(partial(_extremum, name)) for name in ("max", "min")},
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm),
    "logsumexp": of_floats(with_axes(lambda op: f"nnx.logsumexp(self, {_over(op)})")),
    "logcumsumexp": of_floats(with_axes(lambda op: f"lax.cumlogsumexp(self, axis={op.axis(op['dim'])})")),
    **{name: of_floats(with_axes(partial(_moment, name))) for name in ("var", "std")},
    **{name: partial(_sum, name) for name in ("cumsum", "cumprod")},
    "topk": _top,
    "sort": with_axes(f"(jnp.sort(self, axis=dim, descending=descending), {_ORDER})"),
    "argsort": with_axes(_ORDER),
    **dict.fromkeys(_PRODUCTS.split(), _plain("self @ other")),
    **dict.fromkeys(("linalg_inv", "inverse"), "jnp.linalg.inv(self)"),
    "vdot": _plain("jnp.vdot(self, other)"),
    "linear": _linear,
    "lstm_cell": _lstm_cell,
    "rnn_tanh_cell": partial(_rnn_cell, "jnp.tanh"),
    "rnn_relu_cell": partial(_rnn_cell, "nnx.relu"),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), of_floats(_added)),
    "einsum": _plain("jnp.einsum(equation, *tensors)"),
    **{
        f"{prefix}{name}": with_axes(partial(_normalized, name))
        for name in ("softmax", "log_softmax")
        for prefix in ("", "_", "special_")
    },
    **dict.fromkeys(("layer_norm", "rms_norm"), of_floats(_norm_of_last_axes)),
    **dict.fromkeys(("batch_norm", "group_norm", "instance_norm"), of_floats(_norm_of_channels)),
    "glu": of_floats(lambda op: f"nnx.glu(self, axis={op.short_axis()})"),
    "scaled_dot_product_attention": attention,
}
