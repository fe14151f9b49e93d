"""Matrix products, at the precision of the call. Half precision accumulates in float32."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxlstm.layer import precision as precision_
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import Operand, is_float, promoted
from jaxlstm.programs.operators.registry import Options, register_operator


def product(a: jax.Array, b: jax.Array, options: Options) -> jax.Array:
    """Return ``a @ b`` with NumPy's batching, in the dtype of ``a``."""
    wide = precision_.gate_dtype(a.dtype) if is_float(a) else a.dtype
    precision = precision_.resolve(options.precision)
    return jnp.matmul(a, b, precision=precision, preferred_element_type=wide).astype(a.dtype)


@register_operator("aten.linear.default")
def linear(
    input: jax.Array, weight: jax.Array, bias: jax.Array | None = None, *, options: Options
) -> jax.Array:
    """Return ``input @ weight.T + bias``."""
    if weight.ndim == 1:
        y = product(input, weight, options)
        return y if bias is None else y + bias
    return precision_.linear(input, weight, bias, precision=options.precision).astype(input.dtype)


@register_operator(
    "aten.matmul.default", "aten.bmm.default", "aten.mm.default", "aten.mv.default", "aten.dot.default"
)
def matmul(
    self: jax.Array,
    other: jax.Array | None = None,
    mat2: jax.Array | None = None,
    vec: jax.Array | None = None,
    tensor: jax.Array | None = None,
    *,
    options: Options,
) -> jax.Array:
    """Return the matrix product; torch's schemas name the second factor differently."""
    second = next(factor for factor in (other, mat2, vec, tensor) if factor is not None)
    return product(self, second, options)


@register_operator("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(
    self: jax.Array,
    mat1: jax.Array | None = None,
    mat2: jax.Array | None = None,
    batch1: jax.Array | None = None,
    batch2: jax.Array | None = None,
    mat: jax.Array | None = None,
    vec: jax.Array | None = None,
    beta: Operand = 1,
    alpha: Operand = 1,
    *,
    options: Options,
) -> jax.Array:
    """Return ``beta * self + alpha * (a @ b)``; NaN in ``self`` is ignored if beta is 0."""
    first = next(factor for factor in (mat1, batch1, mat) if factor is not None)
    second = next(factor for factor in (mat2, batch2, vec) if factor is not None)
    y = product(first, second, options)
    y = y if alpha == 1 else y * jnp.asarray(alpha, y.dtype)
    if beta == 0:
        return y
    return y + (self if beta == 1 else self * jnp.asarray(beta, self.dtype))


@register_operator("aten.vdot.default")
def vdot(self: jax.Array, other: jax.Array, *, options: Options) -> jax.Array:
    """Return the sum of products of two vectors, the first one conjugated."""
    return product(jnp.conj(self), other, options)


@register_operator("aten.linalg_vecdot.default")
def vecdot(x: jax.Array, y: jax.Array, dim: int = -1, *, options: Options) -> jax.Array:
    """Return the sum of products along an axis, with the first factor conjugated."""
    x, y = jnp.broadcast_arrays(jnp.conj(x), y)
    x, y = jnp.moveaxis(x, dim, -1), jnp.moveaxis(y, dim, -1)
    return product(x[..., None, :], y[..., None], options)[..., 0, 0]


@register_operator("aten.addr.default")
def addr(
    self: jax.Array,
    vec1: jax.Array,
    vec2: jax.Array,
    beta: Operand = 1,
    alpha: Operand = 1,
    *,
    options: Options,
) -> jax.Array:
    """Return ``beta * self + alpha * outer(vec1, vec2)``."""
    return addmm(self, vec1[:, None], vec2[None], beta=beta, alpha=alpha, options=options)


@register_operator("aten.addbmm.default")
def addbmm(
    self: jax.Array,
    batch1: jax.Array,
    batch2: jax.Array,
    beta: Operand = 1,
    alpha: Operand = 1,
    *,
    options: Options,
) -> jax.Array:
    """Return ``beta * self + alpha *`` the sum of the products of all pairs of matrices."""
    rows = batch1.swapaxes(0, 1).reshape(batch1.shape[1], -1)
    columns = batch2.reshape(-1, batch2.shape[2])
    return addmm(self, rows, columns, beta=beta, alpha=alpha, options=options)


# torch returns a view if the equation only permutes the axes of one tensor.
@register_operator("aten.einsum.default", may_alias=True)
def einsum(
    equation: str, tensors: Sequence[jax.Array], path: Sequence[int] | None = None, *, options: Options
) -> jax.Array:
    """Return the sum of products that an equation describes."""
    return _sum_of_products(equation, *tensors, options=options)


def _sum_of_products(equation: str, *tensors: jax.Array, options: Options) -> jax.Array:
    first = tensors[0]
    wide = precision_.gate_dtype(first.dtype) if is_float(first) else first.dtype
    precision = precision_.resolve(options.precision)
    y = jnp.einsum(equation, *tensors, precision=precision, preferred_element_type=wide)
    return y.astype(first.dtype)


@register_operator("aten.tensordot.default")
def tensordot(
    self: jax.Array,
    other: jax.Array,
    dims_self: Sequence[int],
    dims_other: Sequence[int],
    *,
    options: Options,
) -> jax.Array:
    """Return the sum of products over pairs of axes; a size of 1 is broadcast to the size of the other."""
    sizes = [max(self.shape[own], other.shape[its]) for own, its in zip(dims_self, dims_other, strict=True)]
    self, other = _expanded(self, dims_self, sizes), _expanded(other, dims_other, sizes)
    wide = precision_.gate_dtype(self.dtype) if is_float(self) else self.dtype
    precision = precision_.resolve(options.precision)
    pairs = (tuple(dims_self), tuple(dims_other))
    y = jnp.tensordot(self, other, pairs, precision=precision, preferred_element_type=wide)
    return y.astype(self.dtype)


def _expanded(x: jax.Array, dims: Sequence[int], sizes: Sequence[int]) -> jax.Array:
    """Return an array with its axes of size 1 broadcast to the given sizes."""
    shape = list(x.shape)
    for dim, size in zip(dims, sizes, strict=True):
        shape[dim] = size if shape[dim] == 1 else shape[dim]
    return jnp.broadcast_to(x, shape)


@register_operator("aten.inner.default")
def inner(self: jax.Array, other: jax.Array, *, options: Options) -> jax.Array:
    """Return the sum of products over the last axes; the product if either has no axes."""
    if self.ndim == 0 or other.ndim == 0:
        return self * other
    return tensordot(self, other, (-1,), (-1,), options=options)


@register_operator("aten.bilinear.default")
def bilinear(
    input1: jax.Array,
    input2: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    *,
    options: Options,
) -> jax.Array:
    """Return ``input1 @ weight[o] @ input2 + bias[o]`` for each output ``o``."""
    y = _sum_of_products("...i,oij,...j->...o", input1, weight, input2, options=options)
    return y if bias is None else y + bias


@register_operator("aten.outer.default")
def outer(self: jax.Array, vec2: jax.Array) -> jax.Array:
    """Return the product of each pair of elements of two vectors."""
    return self[:, None] * vec2[None, :]


@register_operator("aten.kron.default")
def kron(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the Kronecker product."""
    return jnp.kron(*promoted(self, other))


@register_operator("aten.linalg_cross.default")
def linalg_cross(self: jax.Array, other: jax.Array, dim: int = -1) -> jax.Array:
    """Return the cross product of vectors of three elements along an axis."""
    self, other = jnp.broadcast_arrays(*promoted(self, other))
    if self.shape[axis(self, dim)] != 3:
        raise ValueError(f"axis {dim} must have size 3, got {self.shape[axis(self, dim)]}")
    first, second = (jnp.roll(self, shift, dim) * jnp.roll(other, -shift, dim) for shift in (-1, 1))
    return first - second


@register_operator("aten.cross.default")
def cross(self: jax.Array, other: jax.Array, dim: int | None = None) -> jax.Array:
    """Return the cross product along an axis, by default the first one of size 3."""
    return linalg_cross(self, other, self.shape.index(3) if dim is None else dim)
