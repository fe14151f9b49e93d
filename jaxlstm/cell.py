r"""One time step of an LSTM: the equations of ``torch.nn.LSTMCell``.

.. math::
    \begin{aligned}
    i   &= \sigma(W_{ii} x + b_{ii} + W_{hi} h + b_{hi}) \\
    f   &= \sigma(W_{if} x + b_{if} + W_{hf} h + b_{hf}) \\
    g   &= \tanh (W_{ig} x + b_{ig} + W_{hg} h + b_{hg}) \\
    o   &= \sigma(W_{io} x + b_{io} + W_{ho} h + b_{ho}) \\
    c'  &= f \odot c + i \odot g \\
    h'  &= o \odot \tanh(c'), \quad\text{and } h' = W_{hr} (o \odot \tanh(c')) \text{ with a projection}
    \end{aligned}

The state is (h, c), h first, as in torch. Source: Hochreiter and Schmidhuber (1997) with the forget gate
of Gers et al. (2000); the projection is that of Sak et al. (2014), https://arxiv.org/abs/1402.1128.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlstm import precision as precision_
from jaxlstm.activations import sigmoid, tanh
from jaxlstm.precision import Precision, linear


class LSTMState(NamedTuple):
    """The state of an LSTM, in torch's order: hidden state first, cell state second."""

    h: jax.Array
    c: jax.Array


def input_gates(
    params: Mapping[str, Any],
    x: Float[Array, "*batch features"],
    *,
    precision: Precision = precision_.DEFAULT,
) -> Float[Array, "*batch gates"]:
    """``W_ih x + b_ih``, the half of the gates that does not wait for h: (..., in) -> (..., 4H)."""
    return linear(x, params["weight_ih"], params.get("bias_ih"), precision=precision)


def cell_step(
    params: Mapping[str, Any],
    x_gates: Float[Array, "*batch gates"],
    state: tuple[Float[Array, "*batch h_size"], Float[Array, "*batch hidden_size"]],
    *,
    precision: Precision = precision_.DEFAULT,
) -> LSTMState:
    """The next state from :func:`input_gates` (..., 4H) and the last (h, c): (..., h_size), (..., H)."""
    h, c = state
    gates = x_gates + linear(h, params["weight_hh"], params.get("bias_hh"), precision=precision)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c_next = f * c.astype(gates.dtype) + i * g
    h_next = project(params, o * tanh(c_next), h.dtype, precision=precision)
    return LSTMState(h_next, c_next.astype(c.dtype))


def project(params: Mapping[str, Any], m: Any, dtype: Any, *, precision: Precision) -> jax.Array:
    """``W_hr m`` where there is a projection, else m: (..., H) -> (..., h_size), rounded to ``dtype``."""
    m = m.astype(dtype)
    if "weight_hr" not in params:
        return m
    return linear(m, params["weight_hr"], precision=precision).astype(dtype)


class StepDerivative(NamedTuple):
    """The derivative of one step, a sparse matrix: with z the gates before their nonlinearity and
    m = o tanh(c'),

    dc' = f dc + (c f(1-f) dz_f + g i(1-i) dz_i + i (1-g^2) dz_g),  dm = m_by_c dc' + tanh(c') o(1-o) dz_o
    """

    by_gates: jax.Array  # (..., 4H): what dz_i, dz_f and dz_g bring to dc', and dz_o to dm
    f: jax.Array  # (..., H)
    m_by_c: jax.Array  # (..., H): o (1 - tanh(c')^2)


def differentiated_step(
    params: Mapping[str, Any],
    x_gates: Float[Array, "*batch gates"],
    state: tuple[Float[Array, "*batch h_size"], Float[Array, "*batch hidden_size"]],
    *,
    precision: Precision = precision_.DEFAULT,
) -> tuple[LSTMState, StepDerivative, Float[Array, "*batch hidden_size"]]:
    """:func:`cell_step`, with its derivative and m = o tanh(c'), the h before a projection."""
    h, c = state
    gates = x_gates + linear(h, params["weight_hh"], params.get("bias_hh"), precision=precision)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    i, f, g, o, c = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o), c.astype(gates.dtype)
    c_next = f * c + i * g
    tanh_c = tanh(c_next)
    by_gates = (g * i * (1 - i), c * f * (1 - f), i * (1 + g) * (1 - g), tanh_c * o * (1 - o))
    derivative = StepDerivative(
        jnp.concatenate(by_gates, axis=-1), f, o * (1 + tanh_c) * (1 - tanh_c)
    )
    m = (o * tanh_c).astype(h.dtype)
    h_next = project(params, m, h.dtype, precision=precision)
    return LSTMState(h_next, c_next.astype(state[1].dtype)), derivative, m
