"""Complex numbers: their parts, absolute value and angle, and pairs of real numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.dtypes import as_float
from jaxlstm.programs.operators.registry import Kwargs, register_family, register_operator
from jaxlstm.programs.operators.unary import of_tensor


def _real_pairs_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return view_as_complex(view)


def _complex_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return view_as_real(view)


def _real_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return jax.lax.complex(view, base.imag)


def _imag_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return jax.lax.complex(base.real, view)


@register_operator("aten.view_as_real.default", write_back=_real_pairs_back)
def view_as_real(self: Array) -> Array:
    """Return real and imaginary parts in a new last axis."""
    return jnp.stack([self.real, self.imag], -1)


@register_operator("aten.view_as_complex.default", write_back=_complex_back)
def view_as_complex(self: Array) -> Array:
    """Return the pairs of the last axis as complex numbers."""
    return jax.lax.complex(self[..., 0], self[..., 1])


@register_operator("aten.real.default", write_back=_real_back)
def real(self: Array) -> Array:
    """Return the real part."""
    return self.real


@register_operator("aten.imag.default", write_back=_imag_back)
def imag(self: Array) -> Array:
    """Return the imaginary part."""
    return self.imag


register_family(of_tensor, {"conj_physical": jnp.conj})


@register_operator("aten.complex.default")
def complex_(real: Array, imag: Array) -> Array:
    """Return the complex number with two parts."""
    return jax.lax.complex(*jnp.broadcast_arrays(real, imag))


@register_operator("aten.polar.default")
def polar(abs: Array, angle: Array) -> Array:
    """Return the complex number with an absolute value and an angle."""
    return complex_(abs * jnp.cos(angle), abs * jnp.sin(angle))


@register_operator("aten.angle.default")
def angle(self: Array) -> Array:
    """Return the angle of a complex number, pi for a negative number; its gradient is 0 at 0."""
    if not jnp.iscomplexobj(self):
        x = as_float(self)
        return jnp.where(jnp.isnan(x), x, jnp.where(x < 0, jnp.pi, 0).astype(x.dtype))
    is_zero = self == 0
    away = jnp.where(is_zero, 1, self)
    return jnp.where(is_zero, jnp.angle(jax.lax.stop_gradient(self)), jnp.angle(away))
