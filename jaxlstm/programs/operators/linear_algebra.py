"""Matrix products and attention, at the precision of the call. Half precision accumulates in float32."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.layer import precision as precision_
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import Operand, is_float, promoted
from jaxlstm.programs.operators.registry import Options, register_operator


def product(a: Array, b: Array, options: Options) -> Array:
    """Return ``a @ b`` with NumPy's batching, in the dtype of ``a``."""
    return _accumulated(jnp.matmul, a, options)(a, b)


def _accumulated(function: Callable[..., Array], like: Array, options: Options) -> Callable[..., Array]:
    """Return a function of products that accumulates at least in float32, with results like an array."""
    wide_dtype = precision_.gate_dtype(like.dtype) if is_float(like) else like.dtype
    precision = precision_.resolve(options.precision)
    run = partial(function, precision=precision, preferred_element_type=wide_dtype)
    return lambda *args: run(*args).astype(like.dtype)


@register_operator("aten.linear.default")
def linear(input: Array, weight: Array, bias: Array | None = None, *, options: Options) -> Array:
    """Return ``input @ weight.T + bias``."""
    if weight.ndim == 1:
        y = product(input, weight, options)
        return y if bias is None else y + bias
    return precision_.linear(input, weight, bias, precision=options.precision).astype(input.dtype)


@register_operator(
    *(f"aten.{name}.default" for name in ("matmul", "linalg_matmul", "bmm", "mm", "mv", "dot")),
    schema_names={"mat2": "other", "vec": "other", "tensor": "other"},
)
def matmul(self: Array, other: Array, *, options: Options) -> Array:
    """Return the matrix product."""
    return product(self, other, options)


@register_operator(
    *("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default"),
    schema_names={"batch1": "mat1", "mat": "mat1", "batch2": "mat2", "vec": "mat2"},
)
def addmm(
    self: Array, mat1: Array, mat2: Array, beta: Operand = 1, alpha: Operand = 1, *, options: Options
) -> Array:
    """Return ``beta * self + alpha * (mat1 @ mat2)``; NaN in ``self`` is ignored if beta is 0."""
    y = product(mat1, mat2, options)
    y = y if alpha == 1 else y * jnp.asarray(alpha, y.dtype)
    if beta == 0:
        return y
    return y + (self if beta == 1 else self * jnp.asarray(beta, self.dtype))


@register_operator("aten.vdot.default")
def vdot(self: Array, other: Array, *, options: Options) -> Array:
    """Return the sum of products of two vectors, the first one conjugated."""
    return product(jnp.conj(self), other, options)


@register_operator("aten.linalg_vecdot.default")
def vecdot(x: Array, y: Array, dim: int = -1, *, options: Options) -> Array:
    """Return the sum of products along an axis, with the first factor conjugated."""
    x, y = jnp.broadcast_arrays(x, y)
    return _accumulated(partial(jnp.vecdot, axis=dim), x, options)(x, y)


@register_operator("aten.addr.default")
def addr(
    self: Array, vec1: Array, vec2: Array, beta: Operand = 1, alpha: Operand = 1, *, options: Options
) -> Array:
    """Return ``beta * self + alpha * outer(vec1, vec2)``."""
    return addmm(self, vec1[:, None], vec2[None], beta=beta, alpha=alpha, options=options)


@register_operator("aten.addbmm.default")
def addbmm(
    self: Array, batch1: Array, batch2: Array, beta: Operand = 1, alpha: Operand = 1, *, options: Options
) -> Array:
    """Return ``beta * self + alpha *`` the sum of the products of all pairs of matrices."""
    rows = batch1.swapaxes(0, 1).reshape(batch1.shape[1], -1)
    columns = batch2.reshape(-1, batch2.shape[2])
    return addmm(self, rows, columns, beta=beta, alpha=alpha, options=options)


# torch returns a view if the equation only permutes the axes of one tensor.
@register_operator("aten.einsum.default", may_alias=True)
def einsum(
    equation: str, tensors: Sequence[Array], path: Sequence[int] | None = None, *, options: Options
) -> Array:
    """Return the sum of products that an equation describes."""
    return _accumulated(jnp.einsum, tensors[0], options)(equation, *tensors)


@register_operator("aten.tensordot.default")
def tensordot(
    self: Array, other: Array, dims_self: Sequence[int], dims_other: Sequence[int], *, options: Options
) -> Array:
    """Return the sum of products over pairs of axes; a size of 1 is broadcast to the size of the other."""
    sizes = [max(self.shape[i], other.shape[j]) for i, j in zip(dims_self, dims_other, strict=True)]
    self, other = _expanded(self, dims_self, sizes), _expanded(other, dims_other, sizes)
    pairs = (tuple(dims_self), tuple(dims_other))
    return _accumulated(jnp.tensordot, self, options)(self, other, pairs)


def _expanded(x: Array, dims: Sequence[int], sizes: Sequence[int]) -> Array:
    """Return an array with its axes of size 1 broadcast to the given sizes."""
    shape = list(x.shape)
    for dim, size in zip(dims, sizes, strict=True):
        shape[dim] = size if shape[dim] == 1 else shape[dim]
    return jnp.broadcast_to(x, shape)


@register_operator("aten.inner.default")
def inner(self: Array, other: Array, *, options: Options) -> Array:
    """Return the sum of products over the last axes; the product if either has no axes."""
    if self.ndim == 0 or other.ndim == 0:
        return self * other
    return tensordot(self, other, (-1,), (-1,), options=options)


@register_operator("aten.bilinear.default")
def bilinear(
    input1: Array, input2: Array, weight: Array, bias: Array | None = None, *, options: Options
) -> Array:
    """Return ``input1 @ weight[o] @ input2 + bias[o]`` for each output ``o``."""
    y = einsum("...i,oij,...j->...o", (input1, weight, input2), options=options)
    return y if bias is None else y + bias


@register_operator("aten.outer.default", "aten.ger.default")
def outer(self: Array, vec2: Array) -> Array:
    """Return the product of each pair of elements of two vectors."""
    return self[:, None] * vec2[None, :]


@register_operator("aten.linalg_cross.default")
def linalg_cross(self: Array, other: Array, dim: int = -1) -> Array:
    """Return the cross product of vectors of three elements along an axis."""
    self, other = jnp.broadcast_arrays(*promoted(self, other))
    if self.shape[axis(self, dim)] != 3:
        raise ValueError(f"axis {dim} must have size 3, got {self.shape[axis(self, dim)]}")
    return jnp.cross(self, other, axis=dim)


@register_operator("aten.cross.default")
def cross(self: Array, other: Array, dim: int | None = None) -> Array:
    """Return the cross product along an axis, by default the first one of size 3."""
    return linalg_cross(self, other, self.shape.index(3) if dim is None else dim)


@register_operator(
    "aten.scaled_dot_product_attention.default", in_training=lambda kwargs: bool(kwargs.get("dropout_p"))
)
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    options: Options,
) -> Array:
    """Return softmax(query @ key.T * scale + mask) @ value.

    A bool mask is True where a key takes part. A query without any key gives zeros, as in torch.
    """
    if enable_gqa:
        key = jnp.repeat(key, query.shape[-3] // key.shape[-3], axis=-3)
        value = jnp.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    dtype = precision_.gate_dtype(query.dtype)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    # As in torch, the root of the scale on each side keeps half precision in range.
    sign = -1 if factor < 0 else 1
    root = jnp.asarray(math.sqrt(abs(factor)), dtype)
    queries, keys = query.astype(dtype) * root * sign, jnp.swapaxes(key.astype(dtype) * root, -1, -2)
    scores = product(queries, keys, options)
    if is_causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    if attn_mask is not None and attn_mask.dtype == jnp.bool_:
        scores = jnp.where(attn_mask, scores, -jnp.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask.astype(dtype)
    return product(_safe_softmax(scores), value.astype(dtype), options).astype(query.dtype)


def _safe_softmax(scores: Array) -> Array:
    """Return the softmax over the last axis, and zeros where every score is -inf."""
    is_masked = jnp.all(scores == -jnp.inf, -1, keepdims=True)
    return jnp.where(is_masked, 0, jax.nn.softmax(jnp.where(is_masked, 0, scores), axis=-1))
