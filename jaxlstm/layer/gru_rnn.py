r"""GRU and RNN: one time step, and one direction of one layer over time with its own derivative.

With :math:`x` for :math:`W_{ih} x + b_{ih}` and :math:`a` for :math:`W_{hh} h + b_{hh}`, each with one block
of rows per gate,

.. math::
    \begin{aligned}
    \text{RNN:} \quad & h' = \tanh(x + a), \quad\text{or } h' = \max(x + a, 0) \\
    \text{GRU:} \quad & r = \sigma(x_r + a_r), \quad z = \sigma(x_z + a_z), \quad
        n = \tanh(x_n + r \odot a_n) \\
    & h' = (1 - z) \odot n + z \odot h.
    \end{aligned}

Time is the first axis. One product before the loop computes W_ih x of all steps. In the derivative, as in
:mod:`jaxlstm.layer.direction`, one product after the loop computes dW_hh h of all steps, so that the loop
contains only the products that need the previous step. Ragged batches are as in :mod:`jaxlstm.layer.scan`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.layer.activations import sigmoid, tanh
from jaxlstm.layer.cell import input_gates
from jaxlstm.layer.config import GRUConfig, LayerConfig, RNNConfig
from jaxlstm.layer.precision import Precision, add_bias, gate_dtype, linear, product
from jaxlstm.layer.scan import or_zero, states_before, where

Step = Callable[[Sequence[jax.Array], jax.Array, jax.Array], jax.Array]
"""``(x, a, h)`` to the next h: x (..., H) of each gate, a (..., gates * H), h (..., H)."""


def _gru_step(x: Sequence[jax.Array], a: jax.Array, h: jax.Array) -> jax.Array:
    (x_r, x_z, x_n), (a_r, a_z, a_n) = x, jnp.split(a, 3, axis=-1)
    n = tanh(x_n + sigmoid(x_r + a_r) * a_n)
    return n + sigmoid(x_z + a_z) * (h - n)


def _tanh_step(x: Sequence[jax.Array], a: jax.Array, h: jax.Array) -> jax.Array:
    return tanh(x[0] + a)


def _relu_step(x: Sequence[jax.Array], a: jax.Array, h: jax.Array) -> jax.Array:
    return jax.nn.relu(x[0] + a)


def step_of(config: LayerConfig) -> Step:
    """Return the step of a GRU or RNN."""
    if isinstance(config, GRUConfig):
        return _gru_step
    assert isinstance(config, RNNConfig), config
    return _tanh_step if config.nonlinearity == "tanh" else _relu_step


def cell_step(
    step: Step, params: Mapping[str, Any], x: jax.Array, h: jax.Array, *, precision: Precision
) -> jax.Array:
    """Return the next h of a cell, given its input (..., input_size) and h (..., H)."""
    gates = input_gates(params, x, precision=precision)
    a = linear(h, params["weight_hh"], params.get("bias_hh"), precision=precision)
    return step(_by_gate(gates, h), a, h.astype(a.dtype)).astype(h.dtype)


def _by_gate(gates: jax.Array, h: jax.Array) -> tuple[jax.Array, ...]:
    # In a loop on a CPU, XLA does not vectorize a step that reads parts of one array.
    return tuple(jnp.split(gates, gates.shape[-1] // h.shape[-1], axis=-1))


class _Primals(NamedTuple):
    """The arguments of one direction: x (T, B, H) of each gate, h_0 (B, H), ``weight_hh`` and ``bias_hh``."""

    x: tuple[jax.Array, ...]
    h_0: jax.Array
    weight: jax.Array
    bias: jax.Array | None


def over_time(
    step: Step,
    params: Mapping[str, Any],
    inputs: jax.Array,
    h_0: jax.Array,
    valid: jax.Array | None = None,
    *,
    reverse: bool = False,
    precision: Precision,
) -> tuple[jax.Array, jax.Array]:
    """Run a step over time.

    Args:
      params: the parameters of one direction without suffix.
      inputs: (T, B, features).
      h_0: (B, H).
      valid: (T, B), True at the valid steps; None if every step is valid.
      reverse: run from the last step to the first. Each output stays at the time of its input.

    Returns:
      Outputs (T, B, H), zero where not valid, and h after the last step.
    """
    gates = input_gates(params, inputs, precision=precision)
    primals = _Primals(_by_gate(gates, h_0), h_0, params["weight_hh"], params.get("bias_hh"))
    return _differentiable(step, reverse, precision, primals, valid)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _differentiable(
    step: Step, reverse: bool, precision: Precision, primals: _Primals, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    outputs, last, _ = _forward(step, reverse, precision, primals, valid, keep=False)
    return outputs, last


def _forward(
    step: Step, reverse: bool, precision: Precision, primals: _Primals, valid: jax.Array | None, *, keep: bool
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return outputs, the last h, and with ``keep`` the products a of all steps."""
    # Transposed once: on a CPU, a product in the loop is then faster. In bfloat16 jaxlib 0.10.0 has none.
    dtype = gate_dtype(primals.weight.dtype)
    weight = primals.weight.T.astype(dtype)

    def body(h: jax.Array, at: tuple) -> tuple[jax.Array, tuple]:
        x, step_valid = at
        a = add_bias(product(h.astype(dtype), weight, 0, precision=precision), primals.bias)
        new = step(x, a, h.astype(a.dtype)).astype(h.dtype)
        return where(step_valid, new, h), (or_zero(step_valid, new), a if keep else None)

    last, (outputs, a) = lax.scan(body, primals.h_0, (primals.x, valid), reverse=reverse)
    return outputs, last, a


@_differentiable.defjvp
def _differentiable_jvp(
    step: Step, reverse: bool, precision: Precision, primals: tuple, tangents: tuple
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    (own, valid), (own_tangents, _) = primals, tangents
    outputs, last, a = _forward(step, reverse, precision, own, valid, keep=True)
    before = states_before(outputs, own.h_0, valid, reverse=reverse)
    da = linear(before, own_tangents.weight, own_tangents.bias, precision=precision)

    def body(dh: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        x, a, h, dx, da, step_valid = at
        da = da + linear(dh, own.weight, precision=precision)
        _, new = jax.jvp(step, (x, a, h.astype(a.dtype)), (dx, da, dh.astype(a.dtype)))
        new = new.astype(dh.dtype)
        return where(step_valid, new, dh), or_zero(step_valid, new)

    steps = (own.x, a, before, own_tangents.x, da, valid)
    dlast, doutputs = lax.scan(body, own_tangents.h_0, steps, reverse=reverse)
    return (outputs, last), (doutputs, dlast)
