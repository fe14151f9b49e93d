r"""One direction of one layer over time: the plain scan, built on ``jax.lax.scan``, with its own derivative.

Time is the first axis of every array. One large product computes the input projection of all time steps
before the loop. The loop contains only the recurrent product ``W_hh h``, which needs the previous step.

**Ragged batches** keep their order. At a step that is not valid, the state does not change and the output is
zero. A forward pass therefore ends with the state after the last valid step of each row. A reverse pass keeps
the initial state until it reaches the last valid step of the row, so each row is reversed within its own
length, as torch does for packed sequences.

**The derivative.** JAX's derivative of a scan computes dW_hh as a sum of small products inside the loop. The
JVP rule of this module moves these products out of the loop. With z the pre-activations of the gates
(:mod:`jaxlstm.cell`), the tangents of the inputs and of the gates' parameters enter only through

.. math::
    dz_t = W_{ih} \, dx_t + dW_{ih} \, x_t + db_{ih} + dW_{hh} \, h_{t-1} + db_{hh}.

After the forward pass every :math:`h_{t-1}` is known, so :func:`gates_tangent` computes all :math:`dz_t` with
large products. The remaining loop, :func:`run_tangent`, contains only :math:`W_{hh} \, dh_{t-1}`. Transposed
by JAX, this rule gives the backward pass: a reverse scan for the cotangents of z, then one large product each
for the gradients of W_ih, W_hh and x. Forward mode and higher derivatives follow from the same rule.

The forward pass stores a :class:`jaxlstm.cell.StepDerivative` per step, six numbers per hidden unit, so that
the backward pass does not recompute the activations.
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
from jaxlstm.cell import LSTMState, StepDerivative, cell_step, differentiated_step, input_gates, project
from jaxlstm.precision import Precision, gate_dtype, linear


class Recurrence(NamedTuple):
    """An implementation of one direction: the four functions of this module, or a kernel's.

    Each function has the signature of the function of the same name in this module. All of them take
    ``reverse`` and ``precision`` by keyword.
    """

    run: Callable[..., tuple[jax.Array, LSTMState]]
    run_and_differentiate: Callable[..., tuple]
    run_tangent: Callable[..., tuple[jax.Array, LSTMState]]
    gates_tangent: Callable[..., jax.Array]


class RunTangents(NamedTuple):
    """The inputs of :func:`run_tangent` that enter linearly.

    Attributes:
      gates: dz, (T, B, 4H).
      projection: dW_hr m, (T, B, h_size); None without a projection, or if dW_hr is zero.
      state: tangent of the initial state.
    """

    gates: jax.Array
    projection: jax.Array | None
    state: LSTMState


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
      params: the parameters of one direction without suffix, ``weight_ih``, ``weight_hh`` and so on.
      valid: None if every step is valid.
      reverse: if True, run from the last step to the first. Each output stays at the time of its input.
      recurrence: the implementation; the plain scan if None.

    Returns:
      Outputs (time, batch, h_size), zero where not valid, and the state after the last step.
    """
    settings = (recurrence or PLAIN, reverse, precision)
    return _run(dict(params), inputs, LSTMState(*initial_state), valid, *settings)


# custom_jvp accepts non-differentiable arguments only by position.
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
    return recurrence.run(params, inputs, initial_state, valid, reverse=reverse, precision=precision)


@partial(_run.defjvp, symbolic_zeros=True)
def _run_jvp(
    recurrence: Recurrence, reverse: bool, precision: Precision, primals: tuple, tangents: tuple
) -> tuple:
    params, inputs, initial_state, valid = primals
    dparams, dinputs, dstate, _ = tangents
    static: dict[str, Any] = {"reverse": reverse, "precision": precision}
    results, derivative, m = recurrence.run_and_differentiate(*primals, **static)
    outputs, h_0, weight_ih = results[0], initial_state.h, params["weight_ih"]
    nonzero = _nonzero_tangents(dinputs, dparams)
    dz = recurrence.gates_tangent(weight_ih, inputs, outputs, h_0, valid, nonzero, **static)
    dprojection = None
    if m is not None and not _is_zero(dparams["weight_hr"]):
        dprojection = linear(m, dparams["weight_hr"], precision=precision).astype(m.dtype)
    dstate = jax.tree.map(
        lambda d, x: jnp.zeros_like(x) if _is_zero(d) else d, dstate, initial_state, is_leaf=_is_zero
    )
    weights = {name: params[name] for name in ("weight_hh", "weight_hr") if name in params}
    run_tangents = RunTangents(dz, dprojection, dstate)
    return results, recurrence.run_tangent(weights, derivative, valid, run_tangents, **static)


def run(
    params: dict[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    valid: jax.Array | None,
    *,
    reverse: bool,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    """Return the outputs and the last state, as :func:`scan_direction` does."""

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
    *,
    reverse: bool,
    precision: Precision,
) -> tuple[tuple[jax.Array, LSTMState], StepDerivative, jax.Array | None]:
    """Return the results of :func:`run`, the derivative of each step, and m (T, B, H).

    The derivative and m are zero at steps that are not valid. m is None without a projection.
    """

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, tuple]:
        x_gates, step_valid = step_inputs
        new, derivative, m = differentiated_step(params, x_gates, state, precision=precision)
        stored = (new.h, derivative, m if "weight_hr" in params else None)
        return _where(step_valid, new, state), _or_zero(step_valid, stored)

    x_gates = input_gates(params, inputs, precision=precision)
    state, (outputs, derivative, m) = lax.scan(step, initial_state, (x_gates, valid), reverse=reverse)
    return (outputs, state), derivative, m


def run_tangent(
    weights: dict[str, Any],
    derivative: StepDerivative,
    valid: jax.Array | None,
    tangents: RunTangents,
    *,
    reverse: bool,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    """Return the tangents of the outputs and of the last state, linear in ``tangents``.

    ``weights`` holds ``weight_hh``, and ``weight_hr`` with a projection. ``derivative`` comes from
    :func:`run_and_differentiate`.
    """

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, jax.Array]:
        step_derivative, dz, dprojection, step_valid = step_inputs
        dh, dc = state
        dz = dz + linear(dh, weights["weight_hh"], precision=precision)
        dm, dc_next = step_derivative.apply(dz, dc.astype(dz.dtype))
        dh_next = project(weights, dm, dh.dtype, precision=precision)
        if dprojection is not None:
            dh_next = dh_next + dprojection
        new = LSTMState(dh_next, dc_next.astype(dc.dtype))
        return _where(step_valid, new, state), _or_zero(step_valid, new.h)

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
) -> jax.Array:
    """Return dz (T, B, 4H), linear in ``tangents``.

    Args:
      tangents: tangents of ``inputs``, ``weight_ih``, ``weight_hh`` and ``bias``. ``bias`` is the sum of both
        biases, in the dtype of the gates. A missing entry is zero.
    """
    dtype = gate_dtype(inputs.dtype)
    dz = jnp.zeros((*inputs.shape[:-1], weight_ih.shape[0]), dtype)
    if "inputs" in tangents:
        dz += linear(tangents["inputs"], weight_ih, precision=precision)
    if "weight_ih" in tangents:
        dz += linear(inputs, tangents["weight_ih"], precision=precision)
    if "weight_hh" in tangents:
        h_before = states_before(outputs, h_0, valid, reverse=reverse)
        dz += linear(h_before, tangents["weight_hh"], precision=precision)
    if "bias" in tangents:
        dz += tangents["bias"]
    return dz


PLAIN = Recurrence(run, run_and_differentiate, run_tangent, gates_tangent)


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


def _nonzero_tangents(dinputs: Any, dparams: dict[str, Any]) -> dict[str, jax.Array]:
    """Return the tangents for :func:`gates_tangent` that are not symbolically zero."""
    tangents = {"inputs": dinputs, **{name: dparams[name] for name in ("weight_ih", "weight_hh")}}
    tangents = {name: tangent for name, tangent in tangents.items() if not _is_zero(tangent)}
    biases = [dparams[name] for name in ("bias_ih", "bias_hh") if name in dparams]
    biases = [bias.astype(gate_dtype(bias.dtype)) for bias in biases if not _is_zero(bias)]
    if biases:
        tangents["bias"] = reduce(jnp.add, biases)
    return tangents


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _where(valid: jax.Array | None, new: Any, old: Any) -> Any:
    """Select ``new`` in the valid rows of a batch (B,) and ``old`` in the others."""
    if valid is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(valid[:, None], n, o), new, old)


def _or_zero(valid: jax.Array | None, new: Any) -> Any:
    return _where(valid, new, jax.tree.map(jnp.zeros_like, new))
