"""One direction of one layer over time, on ``jax.lax.scan``, with its own derivative.

The input projection of all time steps is one large product before the loop; inside it only ``W_hh h``
is left, since it alone has to wait. Time is the first axis throughout.

A ragged batch needs no reordering. Where a step is not valid the state stands still and the output is
zero: running forwards the state left at the end is then that of the last valid step, and running
backwards it stays the initial one until the row's own last step, which is the reversal inside each
length that torch does for packed sequences.

**The derivative.** JAX's own derivative of a scan adds up dW_hh step by step, in a small product inside the
loop. Here the tangent is written so that only what has to wait is in a loop. With z the gates before their
nonlinearity, the tangents of x and of all parameters meet in

    dz_t = W_ih dx_t + dW_ih x_t + db_ih + dW_hh h_(t-1) + db_hh,

large products outside the loop, since every h is known by then; inside it is ``W_hh dh`` alone. What JAX
makes of that by transposition is the fast backward pass: a reverse scan that gives the gradients of the
gates, and then one large product each for dW_ih, dW_hh and dx. Forward mode and higher derivatives need
nothing of their own. The forward pass keeps the six numbers a unit of :class:`jaxlstm.cell.StepDerivative`
rather than computing nonlinearities twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from jaxlstm import precision as precision_
from jaxlstm.cell import (
    LSTMState,
    StepDerivative,
    cell_step,
    differentiated_step,
    input_gates,
    project,
)
from jaxlstm.precision import Precision, gate_dtype, linear


class Recurrence(NamedTuple):
    """One way to run a direction: the functions below, or a kernel's of the same signatures."""

    run: Callable[..., tuple[jax.Array, LSTMState]]
    run_and_differentiate: Callable[..., tuple]
    run_tangent: Callable[..., tuple[jax.Array, LSTMState]]
    gates_tangent: Callable[..., jax.Array]


def scan_direction(
    params: Mapping[str, Any],
    inputs: Float[Array, "time batch features"],
    initial_state: tuple[Float[Array, "batch h_size"], Float[Array, "batch hidden_size"]],
    valid: Bool[Array, "time batch"] | None = None,
    *,
    reverse: bool = False,
    precision: Precision = precision_.DEFAULT,
    recurrence: Recurrence | None = None,
) -> tuple[Float[Array, "time batch h_size"], LSTMState]:
    """Run the cell over time.

    Args:
      params: ``weight_ih``, ``weight_hh`` and the optional ones, of one direction, without suffix.
      inputs: (time, batch, features).
      initial_state: h (batch, h_size), c (batch, hidden_size).
      valid: bool (time, batch), or None if every step is.
      reverse: from the last step to the first; outputs stay at the time of their input.
      recurrence: how; the plain scan if None.

    Returns:
      Outputs (time, batch, h_size), zero where not valid, and the state after the last step taken.
    """
    how = (recurrence or PLAIN, reverse, precision)
    return _run(dict(params), inputs, LSTMState(*initial_state), valid, *how)


@partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def _run(
    params: dict[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    valid: jax.Array | None,
    recurrence: Recurrence,
    reverse: bool,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    return recurrence.run(params, inputs, initial_state, valid, reverse, precision)


def run(
    params: dict[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    valid: jax.Array | None,
    reverse: bool,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    """Outputs and last state, see :func:`scan_direction`."""

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, jax.Array]:
        x_gates, step_valid = step_inputs
        new = cell_step(params, x_gates, state, precision=precision)
        return _where(step_valid, new, state), _or_zero(step_valid, new.h)

    x_gates = input_gates(params, inputs, precision=precision)
    state, outputs = lax.scan(step, initial_state, (x_gates, valid), reverse=reverse)
    return outputs, state


def run_and_differentiate(
    params: dict[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    valid: jax.Array | None,
    reverse: bool,
    precision: Precision,
) -> tuple[tuple[jax.Array, LSTMState], StepDerivative, jax.Array | None]:
    """What :func:`run` gives, the derivative of each step, and with a projection each m, (T, B, H).

    Both are zero where a step is not valid.
    """

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, tuple]:
        x_gates, step_valid = step_inputs
        new, derivative, m = differentiated_step(params, x_gates, state, precision=precision)
        kept = (new.h, derivative, m if "weight_hr" in params else None)
        return _where(step_valid, new, state), _or_zero(step_valid, kept)

    x_gates = input_gates(params, inputs, precision=precision)
    state, (outputs, derivative, m) = lax.scan(
        step, initial_state, (x_gates, valid), reverse=reverse
    )
    return (outputs, state), derivative, m


def run_tangent(
    params: dict[str, Any],
    derivative: StepDerivative,
    dz: jax.Array,
    dh_projection: jax.Array | None,
    initial_state: LSTMState,
    valid: jax.Array | None,
    reverse: bool,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    """The tangents of outputs and last state, linear in dz (T, B, 4H), in dW_hr m and in the state's."""

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, jax.Array]:
        by, dz_t, dh_projection_t, step_valid = step_inputs
        dh, dc = state
        dz_t = dz_t + linear(dh, params["weight_hh"], precision=precision)
        di, df, dg, do = jnp.split(by.by_gates * dz_t, 4, axis=-1)
        dc_next = by.f * dc.astype(dz_t.dtype) + (di + df + dg)
        dh_next = project(params, by.m_by_c * dc_next + do, dh.dtype, precision=precision)
        if dh_projection_t is not None:
            dh_next = dh_next + dh_projection_t
        new = LSTMState(dh_next, dc_next.astype(dc.dtype))
        return _where(step_valid, new, state), _or_zero(step_valid, new.h)

    steps = (derivative, dz, dh_projection, valid)
    state, outputs = lax.scan(step, initial_state, steps, reverse=reverse)
    return outputs, state


def gates_tangent(
    weight_ih: jax.Array,
    inputs: jax.Array,
    outputs: jax.Array,
    h_0: jax.Array,
    valid: jax.Array | None,
    tangents: dict[str, jax.Array],
    reverse: bool,
    precision: Precision,
) -> jax.Array:
    """dz of the module's text, (T, B, 4H), linear in ``tangents``.

    Those are of ``inputs``, ``weight_ih``, ``weight_hh`` and ``bias``, the sum of the two in the dtype of the
    gates; what is not there is zero.
    """
    dtype = gate_dtype(inputs.dtype)
    dz = jnp.zeros((*inputs.shape[:-1], weight_ih.shape[0]), dtype)
    if "inputs" in tangents:
        dz += linear(tangents["inputs"], weight_ih, precision=precision)
    if "weight_ih" in tangents:
        dz += linear(inputs, tangents["weight_ih"], precision=precision)
    if "weight_hh" in tangents:
        h_before = states_before(outputs, h_0, valid, reverse)
        dz += linear(h_before, tangents["weight_hh"], precision=precision)
    if "bias" in tangents:
        dz += tangents["bias"]
    return dz


PLAIN = Recurrence(run, run_and_differentiate, run_tangent, gates_tangent)


@partial(_run.defjvp, symbolic_zeros=True)
def _run_jvp(
    recurrence: Recurrence, reverse: bool, precision: Precision, primals: tuple, tangents: tuple
) -> tuple:
    params, inputs, initial_state, valid = primals
    dparams, dinputs, dstate, _ = tangents
    out, derivative, m = recurrence.run_and_differentiate(*primals, reverse, precision)
    dz = recurrence.gates_tangent(
        params["weight_ih"],
        inputs,
        out[0],
        initial_state.h,
        valid,
        _present(dinputs, dparams),
        reverse,
        precision,
    )
    dh_projection = None
    if m is not None and not _is_zero(dparams["weight_hr"]):
        dh_projection = linear(m, dparams["weight_hr"], precision=precision).astype(m.dtype)
    dstate = jax.tree.map(
        lambda d, x: jnp.zeros_like(x) if _is_zero(d) else d,
        dstate,
        initial_state,
        is_leaf=_is_zero,
    )
    return out, recurrence.run_tangent(
        params, derivative, dz, dh_projection, dstate, valid, reverse, precision
    )


def _present(dinputs: Any, dparams: dict[str, Any]) -> dict[str, jax.Array]:
    """Those tangents of :func:`gates_tangent` that are not known to be zero."""
    found = {"inputs": dinputs, **{name: dparams[name] for name in ("weight_ih", "weight_hh")}}
    found = {name: tangent for name, tangent in found.items() if not _is_zero(tangent)}
    biases = [dparams[name] for name in ("bias_ih", "bias_hh") if name in dparams]
    biases = [bias.astype(gate_dtype(bias.dtype)) for bias in biases if not _is_zero(bias)]
    if biases:
        found["bias"] = reduce(jnp.add, biases)
    return found


def states_before(
    outputs: jax.Array, h_0: jax.Array, valid: jax.Array | None, reverse: bool
) -> jax.Array:
    """The h that each step began with, (T, B, h_size); of steps that are not valid, anything finite."""
    if reverse:
        before = jnp.concatenate([outputs[1:], h_0[None]])
    else:
        before = jnp.concatenate([h_0[None], outputs[:-1]])
    if valid is None or not reverse:
        return before
    # running backwards, a row begins at its own last step, with the initial state
    follows = jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    return jnp.where(follows[:, :, None], before, h_0)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _where(valid: jax.Array | None, new: Any, old: Any) -> Any:
    """``new`` in the rows (B,) that are valid, ``old`` in the others."""
    if valid is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(valid[:, None], n, o), new, old)


def _or_zero(valid: jax.Array | None, new: Any) -> Any:
    return _where(valid, new, jax.tree.map(jnp.zeros_like, new))
