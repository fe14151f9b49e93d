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

As in torch, the state is (h, c), with h first. A :class:`Cell` holds the differences between an LSTM and the
cells of :mod:`jaxlstm.layer.gru_rnn`: all compute z from x and h, and the rest element by element. Sources:
Hochreiter and Schmidhuber (1997), the forget gate of Gers et al. (2000), and the projection of Sak et al.
(2014), https://arxiv.org/abs/1402.1128.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm.layer import precision as precision_
from jaxlstm.layer.activations import sigmoid, tanh
from jaxlstm.layer.precision import Precision, add_bias, linear, product


class LSTMState(NamedTuple):
    """The state of an LSTM in torch's order: hidden state h, then cell state c.

    Attributes:
      h: (layers * directions, batch, h_size); for a cell (batch, h_size).
      c: (layers * directions, batch, hidden_size); for a cell (batch, hidden_size). Inside of this package
        it is None for a cell without c.
    """

    h: jax.Array
    c: jax.Array


@dataclass(frozen=True, repr=False)
class Cell:
    """How z, in blocks of H, becomes the next state.

    Attributes:
      name: torch's name.
      blocks: the number of blocks of z.
      of_x: the block of z to which each block of rows of W_ih contributes.
      of_h: the same for W_hh.
      step: ``(blocks of z, state)`` to m, c' (None without c), and a function that returns the derivative.
      tangent: ``(derivative, dz, tangent of the state)`` to the tangents of m and c'.
      number: the cell's number in the native kernel (arguments.h); -1 if the kernel lacks it.
    """

    name: str
    blocks: int
    of_x: tuple[int, ...]
    of_h: tuple[int, ...]
    step: Callable[[Sequence[jax.Array], LSTMState], tuple[jax.Array, Any, Callable[[], StepDerivative]]]
    tangent: Callable[[StepDerivative, jax.Array, LSTMState], tuple[jax.Array, Any]]
    number: int

    def __repr__(self) -> str:
        return self.name

    def place(self, product: Any, places: tuple[int, ...]) -> Any:
        """Return the blocks of a product (..., gates * H) at their places in z, and zeros in the others."""
        if places == tuple(range(self.blocks)):
            return product
        xp: Any = np if isinstance(product, np.ndarray) else jnp
        parts = xp.split(product, len(places), axis=-1)
        found = dict(zip(places, parts, strict=True))
        zeros = xp.zeros_like(parts[0])
        return xp.concatenate([found.get(block, zeros) for block in range(self.blocks)], axis=-1)

    def sums(self, x: Sequence[jax.Array], a: Sequence[jax.Array]) -> list[jax.Array]:
        """Return the blocks of z, given the blocks x of W_ih x + b_ih and a of W_hh h + b_hh."""
        z: dict[int, jax.Array] = dict(zip(self.of_x, x, strict=True))
        for block, part in zip(self.of_h, a, strict=True):
            z[block] = z[block] + part if block in z else part
        return [z[block] for block in range(self.blocks)]


class StepDerivative(NamedTuple):
    """The derivative of one step, a sparse linear map from (dz, dh, dc) to (dm, dc').

    Attributes:
      by_gates: (..., blocks * H), the factors of dz in dm; for an LSTM the factors of dz_i, dz_f and dz_g in
        dc', and of dz_o in dm.
      f: (..., H), the factor of dc in dc'; for a GRU the factor of dh in dm at a fixed z; for an RNN None.
      m_by_c: (..., H), the factor of dc' in dm; None without c.
    """

    by_gates: jax.Array
    f: Any
    m_by_c: Any


def _lstm_step(
    z: Sequence[jax.Array], state: LSTMState
) -> tuple[jax.Array, jax.Array, Callable[[], StepDerivative]]:
    i, f, g, o = sigmoid(z[0]), sigmoid(z[1]), tanh(z[2]), sigmoid(z[3])
    c = state.c.astype(i.dtype)
    c_next = f * c + i * g
    tanh_c = tanh(c_next)

    def derivative() -> StepDerivative:
        by_gates = (g * i * (1 - i), c * f * (1 - f), i * (1 + g) * (1 - g), tanh_c * o * (1 - o))
        m_by_c = o * (1 + tanh_c) * (1 - tanh_c)
        return StepDerivative(jnp.concatenate(by_gates, axis=-1), f, m_by_c)

    return o * tanh_c, c_next, derivative


def _lstm_tangent(
    derivative: StepDerivative, dz: jax.Array, dstate: LSTMState
) -> tuple[jax.Array, jax.Array]:
    di, df, dg, do = jnp.split(derivative.by_gates * dz, 4, axis=-1)
    dc_next = derivative.f * dstate.c.astype(dz.dtype) + (di + df + dg)
    return derivative.m_by_c * dc_next + do, dc_next


LSTM = Cell("LSTM", 4, (0, 1, 2, 3), (0, 1, 2, 3), _lstm_step, _lstm_tangent, number=0)


def input_gates(
    params: Mapping[str, Any],
    x: Float[Array, "*batch features"],
    *,
    precision: Precision = precision_.DEFAULT,
    cell: Cell = LSTM,
) -> list[jax.Array]:
    """Return ``W_ih x + b_ih``, the part of z that does not depend on h: (..., in) -> (..., H) for each gate.

    On a CPU, XLA does not vectorize a loop that reads the gates as parts of one array.
    """
    x_gates = linear(x, params["weight_ih"], params.get("bias_ih"), precision=precision)
    return jnp.split(x_gates, len(cell.of_x), axis=-1)


def cell_step(
    params: Mapping[str, Any],
    x_gates: Sequence[jax.Array],
    state: tuple[Float[Array, "*batch h_size"], Any],
    *,
    precision: Precision = precision_.DEFAULT,
    cell: Cell = LSTM,
) -> LSTMState:
    """Return the next state, given the result of :func:`input_gates` and the state (h, c)."""
    return _step(params, x_gates, state, precision, cell)[0]


def differentiated_step(
    params: Mapping[str, Any], x_gates: Sequence[jax.Array], state: tuple, *, precision: Precision, cell: Cell
) -> tuple[LSTMState, StepDerivative, jax.Array]:
    """Return the next state as :func:`cell_step` does, the derivative of the step, and m."""
    next_state, m, derivative = _step(params, x_gates, state, precision, cell)
    return next_state, derivative(), m


def project(params: Mapping[str, Any], m: Any, dtype: Any, *, precision: Precision) -> jax.Array:
    """Return ``W_hr m``, or m without a projection: (..., H) -> (..., h_size), in ``dtype``."""
    m = m.astype(dtype)
    if "weight_hr" not in params:
        return m
    return linear(m, params["weight_hr"], precision=precision).astype(dtype)


def _step(
    params: Mapping[str, Any], x_gates: Sequence[jax.Array], state: tuple, precision: Precision, cell: Cell
) -> tuple[LSTMState, jax.Array, Callable[[], StepDerivative]]:
    """Return the next state and m, rounded to the dtypes of the state, and a function for the derivative."""
    h, c = state
    bias = params.get("bias_hh")
    if "transposed_weight_hh" in params:
        a = add_bias(product(h, params["transposed_weight_hh"], 0, precision=precision), bias)
    else:
        a = linear(h, params["weight_hh"], bias, precision=precision)
    z = cell.sums(x_gates, jnp.split(a, len(cell.of_h), axis=-1))
    m, c_next, derivative = cell.step(z, LSTMState(h, c))
    m = m.astype(h.dtype)
    h_next = project(params, m, h.dtype, precision=precision)
    return LSTMState(h_next, c_next if c is None else c_next.astype(c.dtype)), m, derivative
