r"""The two nonlinearities of the equations, :math:`\sigma` and :math:`\tanh`, as exact as torch's.

XLA's float32 tanh on a CPU is off by up to 4.7 ulp, 1.08 ulp RMS over normal inputs, where torch's is off
by 0.5 and 0.28: enough to make a right port look worse than torch. The one here is off by 1.3 and 0.30, at
the same speed, and is the same formula on every backend. Its polynomial is that of Cephes' ``tanhf``
(S. Moshier, https://www.netlib.org/cephes/); beyond 0.625 it is :math:`1 - 2 / (e^{2x} + 1)`.
XLA's sigmoid, :math:`1 / (1 + e^{-x})`, is off by 2.0 and 0.54 ulp, just as torch's.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

sigmoid = jax.nn.sigmoid

_TANH_POLYNOMIAL = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)


@jax.custom_jvp
def tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The hyperbolic tangent, any shape; float32 by the formula above, other dtypes by XLA's own."""
    if x.dtype != jnp.float32:
        return jnp.tanh(x)
    size, square = jnp.abs(x), x * x
    # plain numbers and no array of them, which a kernel could not take in
    polynomial = reduce(lambda sum_, coefficient: sum_ * square + coefficient, _TANH_POLYNOMIAL)
    near_zero = size + size * square * polynomial
    beyond = 1 - 2 / (jnp.exp(2 * size) + 1)
    return jnp.copysign(jnp.where(size < 0.625, near_zero, beyond), x)


@tanh.defjvp
def _tanh_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = tanh(*primals)
    return y, tangents[0] * (1 + y) * (1 - y)  # 1 - y^2 without its cancellation
