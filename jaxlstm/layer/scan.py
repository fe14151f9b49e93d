"""One direction of one layer over time, as a plain ``jax.lax.scan``.

Time is the first axis of every array. One large product computes the input projection of all time steps
before the loop. The loop contains only the recurrent product ``W_hh h``, which needs the previous step.

**Ragged batches** keep their order. At a step that is not valid, the state does not change and the output is
zero. A forward pass therefore ends with the state after the last valid step of each row. A reverse pass keeps
the initial state until it reaches the last valid step of the row, so each row is reversed within its own
length, as torch does for packed sequences.

All functions but :func:`forward` serve the derivative, which :mod:`jaxlstm.layer.direction` defines.
:func:`forward_and_differentiate` stores a :class:`jaxlstm.layer.cell.StepDerivative` per step, six numbers
per hidden unit of an LSTM, so that the backward pass does not recompute the activations.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.layer.cell import (
    Cell,
    LSTMState,
    StepDerivative,
    cell_step,
    differentiated_step,
    input_gates,
    project,
)
from jaxlstm.layer.precision import Precision, gate_dtype, linear


class Recurrence(NamedTuple):
    """An implementation of the recurrence: the functions of this module, or a kernel's.

    Each function has the signature of the function of the same name in this module. All of them take
    ``reverse``, ``precision`` and ``cell`` by keyword, but :func:`forward_both` has no ``reverse``.
    """

    forward: Callable[..., tuple[jax.Array, LSTMState]]
    forward_and_differentiate: Callable[..., tuple]
    outputs_tangent: Callable[..., tuple[jax.Array, LSTMState]]
    gates_tangent: Callable[..., jax.Array]
    forward_both: Callable[..., tuple[jax.Array, tuple[LSTMState, LSTMState]]]


class RecurrentTangents(NamedTuple):
    """The inputs of :func:`outputs_tangent` that enter linearly.

    Attributes:
      gates: dz, (T, B, blocks * H).
      projection: dW_hr m, (T, B, h_size); None without a projection, or if dW_hr is zero.
      state: tangent of the initial state.
    """

    gates: jax.Array
    projection: jax.Array | None
    state: LSTMState


def forward(
    params: dict[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    valid: jax.Array | None,
    *,
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> tuple[jax.Array, LSTMState]:
    """Return the outputs and the last state, as :func:`jaxlstm.layer.direction.over_time` does."""
    recurrent = _params_of_loop(params)

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, jax.Array]:
        x_gates, step_valid = step_inputs
        new = cell_step(recurrent, x_gates, state, precision=precision, cell=cell)
        return where(step_valid, new, state), or_zero(step_valid, new.h)

    x_gates = input_gates(params, inputs, precision=precision, cell=cell)
    state, outputs = lax.scan(step, initial_state, (x_gates, valid), reverse=reverse)
    return outputs, state


def forward_both(
    params: Sequence[dict[str, Any]],
    inputs: jax.Array,
    initial_states: Sequence[LSTMState],
    valid: jax.Array | None,
    *,
    precision: Precision,
    cell: Cell,
) -> tuple[jax.Array, tuple[LSTMState, LSTMState]]:
    """Run both directions of a layer: the outputs side by side, (T, B, 2 h_size), and the last states."""
    ahead, back = (
        forward(params[d], inputs, initial_states[d], valid, reverse=d == 1, precision=precision, cell=cell)
        for d in (0, 1)
    )
    return concatenate_features([ahead[0], back[0]]), (ahead[1], back[1])


def forward_and_differentiate(
    params: dict[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    valid: jax.Array | None,
    *,
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> tuple[tuple[jax.Array, LSTMState], StepDerivative, jax.Array | None]:
    """Return the results of :func:`forward`, the derivative of each step, and m (T, B, H).

    The derivative and m are zero at steps that are not valid. m is None without a projection.
    """
    recurrent = _params_of_loop(params)

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, tuple]:
        x_gates, step_valid = step_inputs
        new, derivative, m = differentiated_step(recurrent, x_gates, state, precision=precision, cell=cell)
        stored = (new.h, derivative, m if "weight_hr" in params else None)
        return where(step_valid, new, state), or_zero(step_valid, stored)

    x_gates = input_gates(params, inputs, precision=precision, cell=cell)
    state, (outputs, derivative, m) = lax.scan(step, initial_state, (x_gates, valid), reverse=reverse)
    return (outputs, state), derivative, m


def outputs_tangent(
    weights: dict[str, Any],
    derivative: StepDerivative,
    valid: jax.Array | None,
    tangents: RecurrentTangents,
    *,
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> tuple[jax.Array, LSTMState]:
    """Return the tangents of the outputs and of the last state, linear in ``tangents``.

    ``weights`` holds ``weight_hh``, and ``weight_hr`` with a projection. ``derivative`` comes from
    :func:`forward_and_differentiate`.
    """

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, jax.Array]:
        step_derivative, dz, dprojection, step_valid = step_inputs
        dh, dc = state
        dz = dz + cell.place(linear(dh, weights["weight_hh"], precision=precision), cell.of_h)
        dm, dc_next = cell.tangent(step_derivative, dz, state)
        dh_next = project(weights, dm, dh.dtype, precision=precision)
        if dprojection is not None:
            dh_next = dh_next + dprojection
        new = LSTMState(dh_next, dc if dc is None else dc_next.astype(dc.dtype))
        return where(step_valid, new, state), or_zero(step_valid, new.h)

    steps = (derivative, tangents.gates, tangents.projection, valid)
    state, outputs = lax.scan(step, tangents.state, steps, reverse=reverse)
    return outputs, state


def gates_tangent(
    weight_ih: jax.Array,
    inputs: jax.Array,
    outputs: jax.Array,
    h_0: jax.Array,
    valid: jax.Array | None,
    tangents: dict[str, jax.Array],
    *,
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> jax.Array:
    """Return dz (T, B, blocks * H), linear in ``tangents``.

    They are the tangents of ``inputs``, ``weight_ih``, ``weight_hh`` and ``bias``, which is what both
    biases add to z, in the dtype of the gates. A missing entry is zero.
    """
    gates = weight_ih.shape[0] // len(cell.of_x) * cell.blocks
    dz = jnp.zeros((*inputs.shape[:-1], gates), gate_dtype(inputs.dtype))
    if "inputs" in tangents:
        dz += cell.place(linear(tangents["inputs"], weight_ih, precision=precision), cell.of_x)
    if "weight_ih" in tangents:
        dz += cell.place(linear(inputs, tangents["weight_ih"], precision=precision), cell.of_x)
    if "weight_hh" in tangents:
        h_before = states_before(outputs, h_0, valid, reverse=reverse)
        dz += cell.place(linear(h_before, tangents["weight_hh"], precision=precision), cell.of_h)
    if "bias" in tangents:
        dz += tangents["bias"]
    return dz


def _params_of_loop(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with W_hh transposed once: on a CPU, products in a loop are then faster.

    Products of half precision are not: there are none of a transposed matrix in jaxlib 0.10.0.
    """
    weight = params["weight_hh"]
    return params if weight.dtype.itemsize < 4 else {**params, "transposed_weight_hh": weight.T}


PLAIN = Recurrence(forward, forward_and_differentiate, outputs_tangent, gates_tangent, forward_both)


def states_before(outputs: jax.Array, h_0: jax.Array, valid: jax.Array | None, *, reverse: bool) -> jax.Array:
    """Return the h that each valid step starts from, (T, B, h_size); other steps hold any finite value."""
    if reverse:
        before = jnp.concatenate([outputs[1:], h_0[None]])
    else:
        before = jnp.concatenate([h_0[None], outputs[:-1]])
    if valid is None or not reverse:
        return before
    # In reverse, the first step of a row is its last valid one, and it starts from the initial state.
    follows = jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    return jnp.where(follows[:, :, None], before, h_0)


def where(valid: jax.Array | None, new: Any, old: Any) -> Any:
    """Select ``new`` in the valid rows of a batch (B,) and ``old`` in the others."""
    if valid is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(valid[:, None], n, o), new, old)


def or_zero(valid: jax.Array | None, new: Any) -> Any:
    """Select ``new`` in the valid rows of a batch and zeros in the others."""
    return where(valid, new, jax.tree.map(jnp.zeros_like, new))


@jax.custom_jvp
def concatenate_features(arrays: Sequence[jax.Array]) -> jax.Array:
    """Concatenate arrays (..., features) of one dtype along the last axis.

    XLA on a CPU concatenates bfloat16 in float32, with slow conversions before and after. It copies integers
    as they are.
    """
    dtype = arrays[0].dtype
    if len(arrays) == 1 or dtype != jnp.bfloat16:
        return jnp.concatenate(arrays, axis=-1)
    bits = [jax.lax.bitcast_convert_type(array, jnp.uint16) for array in arrays]
    return jax.lax.bitcast_convert_type(jnp.concatenate(bits, axis=-1), dtype)


@concatenate_features.defjvp
def _concatenate_tangents(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return concatenate_features(*primals), jnp.concatenate(*tangents, axis=-1)
