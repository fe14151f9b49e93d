r"""GRU and RNN: cells of a state h.

With :math:`x` for :math:`W_{ih} x + b_{ih}` and :math:`a` for :math:`W_{hh} h + b_{hh}`, each with one block
of rows per gate,

.. math::
    \begin{aligned}
    \text{RNN:} \quad & h' = \tanh(x + a), \quad\text{or } h' = \max(x + a, 0) \\
    \text{GRU:} \quad & r = \sigma(x_r + a_r), \quad z = \sigma(x_z + a_z), \quad
        n = \tanh(x_n + r \odot a_n) \\
    & h' = (1 - z) \odot n + z \odot h.
    \end{aligned}

As a :class:`jaxlstm.layer.cell.Cell`, a GRU has the four blocks :math:`x_n, x_r + a_r, x_z + a_z, a_n`. Time,
ragged batches and derivatives are as for an LSTM, see :mod:`jaxlstm.layer.direction`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.layer.activations import sigmoid, tanh
from jaxlstm.layer.cell import LSTM, Cell, LSTMState, StepDerivative, input_gates
from jaxlstm.layer.cell import cell_step as step_of_cell
from jaxlstm.layer.config import GRUConfig, LayerConfig, LSTMConfig, RNNConfig
from jaxlstm.layer.precision import Precision

Step = tuple[jax.Array, None, Callable[[], StepDerivative]]


def _gru_step(blocks: Sequence[jax.Array], state: LSTMState) -> Step:
    x_n, a_n = blocks[0], blocks[3]
    r, z, h = sigmoid(blocks[1]), sigmoid(blocks[2]), state.h.astype(x_n.dtype)
    n = tanh(x_n + r * a_n)

    def derivative() -> StepDerivative:
        by_n = (1 - z) * (1 + n) * (1 - n)
        by_blocks = (by_n, by_n * a_n * r * (1 - r), (h - n) * z * (1 - z), by_n * r)
        return StepDerivative(jnp.concatenate(by_blocks, axis=-1), z, None)

    return n + z * (h - n), None, derivative


def _gru_tangent(derivative: StepDerivative, dblocks: jax.Array, dstate: LSTMState) -> tuple[jax.Array, None]:
    by_n, by_r, by_z, by_a = jnp.split(derivative.by_gates * dblocks, 4, axis=-1)
    return derivative.f * dstate.h.astype(dblocks.dtype) + (by_n + by_r + by_z + by_a), None


def _tanh_step(z: Sequence[jax.Array], state: LSTMState) -> Step:
    h = tanh(z[0])
    return h, None, lambda: StepDerivative((1 + h) * (1 - h), None, None)


def _relu_step(z: Sequence[jax.Array], state: LSTMState) -> Step:
    return jax.nn.relu(z[0]), None, lambda: StepDerivative((z[0] > 0).astype(z[0].dtype), None, None)


def _tanh_tangent(derivative: StepDerivative, dz: jax.Array, dstate: LSTMState) -> tuple[jax.Array, None]:
    return derivative.by_gates * dz, None


def _relu_tangent(derivative: StepDerivative, dz: jax.Array, dstate: LSTMState) -> tuple[jax.Array, None]:
    return jnp.where(derivative.by_gates > 0, dz, 0), None  # zero times infinity would be NaN


GRU = Cell("GRU", 4, (1, 2, 0), (1, 2, 3), _gru_step, _gru_tangent, number=1)
TANH = Cell("RNN_TANH", 1, (0,), (0,), _tanh_step, _tanh_tangent, number=-1)
RELU = Cell("RNN_RELU", 1, (0,), (0,), _relu_step, _relu_tangent, number=-1)


def cell_of(config: LayerConfig) -> Cell:
    """Return the cell of a layer."""
    if isinstance(config, LSTMConfig | GRUConfig):
        return LSTM if isinstance(config, LSTMConfig) else GRU
    assert isinstance(config, RNNConfig), config
    return TANH if config.nonlinearity == "tanh" else RELU


def cell_step(
    config: LayerConfig, params: Mapping[str, Any], x: jax.Array, h: jax.Array, *, precision: Precision
) -> jax.Array:
    """Return the next h of a cell, given its input (..., input_size) and h (..., H)."""
    cell = cell_of(config)
    gates = input_gates(params, x, precision=precision, cell=cell)
    return step_of_cell(params, gates, (h, None), precision=precision, cell=cell).h
