r"""The two activation functions, :math:`\sigma` and :math:`\tanh`, as accurate as torch's.

On a CPU, XLA's float32 tanh has an error of up to 4.7 ulp, and 1.08 ulp RMS over normally distributed inputs.
torch's has 0.5 and 0.28 ulp. A correct port that used XLA's tanh would therefore look less accurate than
torch. The tanh of this module has 1.3 and 0.30 ulp, runs at the same speed, and uses one formula on every
backend: the polynomial of Cephes' ``tanhf`` (S. Moshier, https://www.netlib.org/cephes/) below 0.625 and
:math:`1 - 2 / (e^{2x} + 1)` above. XLA's sigmoid, :math:`1 / (1 + e^{-x})`, has 2.0 and 0.54 ulp, the same
as torch's.
"""

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
    """Return the hyperbolic tangent: float32 by the formula above, other dtypes by ``jnp.tanh``."""
    if x.dtype != jnp.float32:
        return jnp.tanh(x)
    size, square = jnp.abs(x), x * x
    polynomial = reduce(lambda y, coefficient: y * square + coefficient, _TANH_POLYNOMIAL)
    near_zero = size + size * square * polynomial
    beyond = 1 - 2 / (jnp.exp(2 * size) + 1)
    return jnp.copysign(jnp.where(size < 0.625, near_zero, beyond), x)


@tanh.defjvp
def _tanh_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = tanh(*primals)
    # (1 + y) * (1 - y) avoids the cancellation in 1 - y^2.
    return y, tangents[0] * (1 + y) * (1 - y)
