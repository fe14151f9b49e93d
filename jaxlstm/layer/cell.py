r"""One time step of an LSTM: the equations of ``torch.nn.LSTMCell`` and their derivative.

With the pre-activations :math:`z = (z_i, z_f, z_g, z_o)`, one quarter for each gate,

.. math::
    \begin{aligned}
    z   &= W_{ih} x + b_{ih} + W_{hh} h + b_{hh} \\
    i   &= \sigma(z_i), \quad f = \sigma(z_f), \quad g = \tanh(z_g), \quad o = \sigma(z_o) \\
    c'  &= f \odot c + i \odot g \\
    m   &= o \odot \tanh(c') \\
    h'  &= m, \quad\text{or } h' = W_{hr} m \text{ with a projection.}
    \end{aligned}

The derivative of c' and m with respect to z and c is elementwise:

.. math::
    \begin{aligned}
    dc' &= f \, dc + g \, i (1 - i) \, dz_i + c \, f (1 - f) \, dz_f + i (1 - g^2) \, dz_g \\
    dm  &= o (1 - \tanh^2 c') \, dc' + \tanh(c') \, o (1 - o) \, dz_o
    \end{aligned}

As in torch, the state is (h, c), with h first. Sources: Hochreiter and Schmidhuber (1997), the forget gate
of Gers et al. (2000), and the projection of Sak et al. (2014), https://arxiv.org/abs/1402.1128.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlstm.layer import precision as precision_
from jaxlstm.layer.activations import sigmoid, tanh
from jaxlstm.layer.precision import Precision, linear


class LSTMState(NamedTuple):
    """The state of an LSTM in torch's order: hidden state h, then cell state c.

    Attributes:
      h: (layers * directions, batch, h_size); for a cell (batch, h_size).
      c: (layers * directions, batch, hidden_size); for a cell (batch, hidden_size).
    """

    h: jax.Array
    c: jax.Array


def input_gates(
    params: Mapping[str, Any],
    x: Float[Array, "*batch features"],
    *,
    precision: Precision = precision_.DEFAULT,
) -> Float[Array, "*batch gates"]:
    """Return ``W_ih x + b_ih``, the part of z that does not depend on h: (..., in) -> (..., 4H)."""
    return linear(x, params["weight_ih"], params.get("bias_ih"), precision=precision)


def cell_step(
    params: Mapping[str, Any],
    x_gates: Float[Array, "*batch gates"],
    state: tuple[Float[Array, "*batch h_size"], Float[Array, "*batch hidden_size"]],
    *,
    precision: Precision = precision_.DEFAULT,
) -> LSTMState:
    """Return the next state, given ``x_gates`` from :func:`input_gates` and the state (h, c)."""
    return _step(params, x_gates, state, precision)[0]


def differentiated_step(
    params: Mapping[str, Any],
    x_gates: Float[Array, "*batch gates"],
    state: tuple[Float[Array, "*batch h_size"], Float[Array, "*batch hidden_size"]],
    *,
    precision: Precision = precision_.DEFAULT,
) -> tuple[LSTMState, StepDerivative, Float[Array, "*batch hidden_size"]]:
    """Return the next state as :func:`cell_step` does, the derivative of the step, and m."""
    next_state, m, derivative = _step(params, x_gates, state, precision)
    return next_state, derivative(), m


def project(params: Mapping[str, Any], m: Any, dtype: Any, *, precision: Precision) -> jax.Array:
    """Return ``W_hr m``, or m without a projection: (..., H) -> (..., h_size), in ``dtype``."""
    m = m.astype(dtype)
    if "weight_hr" not in params:
        return m
    return linear(m, params["weight_hr"], precision=precision).astype(dtype)


class StepDerivative(NamedTuple):
    """The derivative of one step, a sparse linear map from (dz, dc) to (dm, dc').

    Attributes:
      by_gates: (..., 4H), the factors of dz_i, dz_f and dz_g in dc', and of dz_o in dm.
      f: (..., H), the factor of dc in dc'.
      m_by_c: (..., H), the factor of dc' in dm.
    """

    by_gates: jax.Array
    f: jax.Array
    m_by_c: jax.Array

    def apply(self, dz: jax.Array, dc: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the tangents (dm, dc')."""
        di, df, dg, do = jnp.split(self.by_gates * dz, 4, axis=-1)
        dc_next = self.f * dc + (di + df + dg)
        return self.m_by_c * dc_next + do, dc_next


def _step(
    params: Mapping[str, Any], x_gates: jax.Array, state: tuple, precision: Precision
) -> tuple[LSTMState, jax.Array, Callable[[], StepDerivative]]:
    """Return the next state and m, rounded to the dtypes of the state, and a function for the derivative."""
    h, c_given = state
    z = x_gates + linear(h, params["weight_hh"], params.get("bias_hh"), precision=precision)
    i, f, g, o = jnp.split(z, 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = c_given.astype(z.dtype)
    c_next = f * c + i * g
    tanh_c = tanh(c_next)
    m = (o * tanh_c).astype(h.dtype)
    h_next = project(params, m, h.dtype, precision=precision)

    def derivative() -> StepDerivative:
        by_gates = (g * i * (1 - i), c * f * (1 - f), i * (1 + g) * (1 - g), tanh_c * o * (1 - o))
        m_by_c = o * (1 + tanh_c) * (1 - tanh_c)
        return StepDerivative(jnp.concatenate(by_gates, axis=-1), f, m_by_c)

    return LSTMState(h_next, c_next.astype(c_given.dtype)), m, derivative
