"""Inverses, determinants, factorizations and functions of matrices, which may be stacked: (..., n, n).

A matrix without a result, for which torch raises an error, gives infinities or NaN: the program may run in
``jax.jit``. Vectors of singular and eigenvalues are refused, as their signs depend on the library.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.registry import refuse_operators, register_family, register_operator

refuse_operators(
    "the signs of singular vectors and eigenvectors differ between libraries; register an implementation if "
    "the model's results do not depend on them",
    *("linalg_svd", "_linalg_svd", "svd", "linalg_eigh", "_linalg_eigh", "linalg_eig", "linalg_eigvals"),
)


def _transposed(x: Array) -> Array:
    """Return the conjugate transpose of matrices."""
    return jnp.conj(x.mT)


def _of_triangle(x: Array, upper: bool) -> Array:
    """Return Hermitian matrices of one triangle, whose gradient is spread over both, as in torch."""
    triangle = jnp.triu(x) if upper else jnp.tril(x)
    diagonal = jnp.eye(x.shape[-1], dtype=bool)
    exact = jnp.where(diagonal, triangle, triangle + _transposed(triangle))
    symmetric = (x + _transposed(x)) / 2
    return symmetric + jax.lax.stop_gradient(exact - symmetric)


def _info(result: Array) -> Array:
    """Return 0 for each matrix of a result that is finite. For others, torch's code is not known."""
    is_finite = jnp.isfinite(result).all((-2, -1))
    return jnp.where(is_finite, 0, jnp.iinfo(jnp.int32).min).astype(jnp.int32)


def cholesky(self: Array, upper: bool = False) -> Array:
    """Return the triangular L with self = L @ L.H, or its conjugate transpose."""
    factor = jax.lax.linalg.cholesky(_of_triangle(self, upper), symmetrize_input=False)
    return _transposed(factor) if upper else factor


def _with_info(function: Any, self: Array, upper: bool = False, check_errors: bool = False) -> Any:
    result = function(self, upper)
    return result, _info(result)


def _determinant(self: Array) -> Array:
    # JAX's gradient needs an element.
    return jnp.linalg.det(self) if self.size else jnp.ones(self.shape[:-2], self.dtype)


def _log_determinant(self: Array) -> Array:
    """Return the logarithm of the determinant, NaN where that is negative."""
    sign, logarithm = jnp.linalg.slogdet(self)
    return jnp.where(sign < 0, jnp.nan, logarithm)


_FUNCTIONS: dict[str, Any] = {
    "linalg_inv inverse": jnp.linalg.inv,
    "linalg_det det": _determinant,
    "linalg_slogdet slogdet": lambda self: tuple(jnp.linalg.slogdet(self)),
    "logdet": _log_determinant,
    "linalg_matrix_exp matrix_exp": jax.scipy.linalg.expm,
    # Without the factors of torch's backward pass, which no model can read.
    "_linalg_det": lambda self: (_determinant(self), None, None),
    "_linalg_slogdet": lambda self: (*jnp.linalg.slogdet(self), None, None),
}
_OF_A: Any = {"schema_names": {"A": "self"}}
register_family(lambda function, self: function(self), _FUNCTIONS, **_OF_A)
register_family(
    lambda function, self, upper=False: function(self, upper), {"linalg_cholesky cholesky": cholesky}
)
register_family(
    _with_info,
    {"linalg_cholesky_ex": cholesky, "linalg_inv_ex": lambda self, upper: jnp.linalg.inv(self)},
    **_OF_A,
)


@register_operator("aten.linalg_solve.default")
def solve(A: Array, B: Array, left: bool = True) -> Array:
    """Return X with A @ X = B, or X @ A = B. ``B`` has matrices or vectors, (..., n, k) or (..., n)."""
    is_vector = B.ndim == 1 or B.shape == A.shape[:-1]
    right = B[..., None] if is_vector else B
    x = jnp.linalg.solve(A, right) if left else jnp.linalg.solve(A.mT, right.mT).mT
    return x.squeeze(-1) if is_vector else x


@register_operator("aten.linalg_solve_ex.default")
def solve_ex(A: Array, B: Array, left: bool = True, check_errors: bool = False) -> tuple[Array, Array]:
    """Return the solution and the code for success."""
    result = solve(A, B, left)
    return result, _info(result[..., None] if result.ndim < A.ndim else result)


@register_operator("aten._linalg_solve_ex.default")
def solve_with_factors(A: Array, B: Array, left: bool = True, check_errors: bool = False) -> Any:
    """Return the solution, without the factors of torch's backward pass, and the code for success."""
    result, info = solve_ex(A, B, left)
    return result, None, None, info


@register_operator("aten.linalg_solve_triangular.default")
def solve_triangular(
    self: Array,
    B: Array,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
    transpose: bool = False,
) -> Array:
    """Return X with self @ X = B, or X @ self = B, of which one triangle is read."""
    stack = jnp.broadcast_shapes(self.shape[:-2], B.shape[:-2])
    triangle, right = (jnp.broadcast_to(x, (*stack, *x.shape[-2:])) for x in (self, B))
    settings = {"left_side": left, "lower": not upper, "unit_diagonal": unitriangular}
    return jax.lax.linalg.triangular_solve(triangle, right, transpose_a=transpose, **settings)


@register_operator("aten.triangular_solve.default")
def triangular_solve(
    self: Array, A: Array, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Array, Array]:
    """Return X with A @ X = self, and ``A``."""
    return solve_triangular(A, self, upper, True, unitriangular, transpose), A


@register_operator("aten.cholesky_solve.default")
def cholesky_solve(self: Array, input2: Array, upper: bool = False) -> Array:
    """Return X with L @ L.H @ X = self, for a triangular factor as `cholesky` returns it."""
    factor = _transposed(input2) if upper else input2
    return solve_triangular(_transposed(factor), solve_triangular(factor, self, upper=False), upper=True)


@register_operator("aten.cholesky_inverse.default")
def cholesky_inverse(self: Array, upper: bool = False) -> Array:
    """Return the inverse of the matrix that has a triangular factor."""
    return cholesky_solve(jnp.eye(self.shape[-1], dtype=self.dtype), self, upper)


@register_operator("aten.linalg_qr.default", "aten.qr.default", schema_names={"A": "self"})
def qr(self: Array, mode: str = "reduced", some: bool = True) -> tuple[Array, Array]:
    """Return Q with orthonormal columns and the upper triangular R, self = Q @ R; only R in the mode "r"."""
    if mode == "r":
        return jnp.zeros(0, self.dtype), jnp.linalg.qr(self, "r")
    return tuple(jnp.linalg.qr(self, mode if some else "complete"))


@register_operator(
    *("aten.linalg_pinv.default", "aten.pinverse.default"),
    *("aten.linalg_pinv.atol_rtol_float", "aten.linalg_pinv.atol_rtol_tensor"),
    schema_names={"rcond": "rtol"},
)
def pseudoinverse(self: Array, rtol: Any = None, hermitian: bool = False, atol: Any = None) -> Array:
    """Return the pseudoinverse without singular values up to ``rtol`` times the largest."""
    if atol is not None:
        raise ValueError(f"atol must be None, got {atol}; use rtol")
    if rtol is None:
        rtol = max(self.shape[-2:]) * jnp.finfo(self.dtype).eps
    return jnp.linalg.pinv(_of_triangle(self, upper=False) if hermitian else self, rtol)


@register_operator("aten.linalg_svdvals.default", schema_names={"A": "self"})
def singular_values(self: Array, driver: str | None = None) -> Array:
    """Return the singular values, the largest first."""
    return jnp.linalg.svd(self, compute_uv=False)


@register_operator("aten.linalg_eigvalsh.default")
def eigenvalues(self: Array, UPLO: str = "L") -> Array:
    """Return the eigenvalues of Hermitian matrices, the smallest first; one triangle is read."""
    return jnp.linalg.eigvalsh(_of_triangle(self, UPLO.upper() == "U"))
