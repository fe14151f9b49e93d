r"""One direction of one layer over time, or both, with its own derivative.

A :class:`jaxlstm.layer.scan.Recurrence` does the work: the plain scan, or a kernel.

**The derivative.** JAX's derivative of a scan computes dW_hh as a sum of small products inside the loop. The
JVP rule of this module moves these products out of the loop. With z the pre-activations of the gates
(:mod:`jaxlstm.layer.cell`), the tangents of the inputs and of the gates' parameters enter only through

.. math::
    dz_t = W_{ih} \, dx_t + dW_{ih} \, x_t + db_{ih} + dW_{hh} \, h_{t-1} + db_{hh}.

After the forward pass every :math:`h_{t-1}` is known, so ``gates_tangent`` computes all :math:`dz_t` with
large products. The remaining loop, ``outputs_tangent``, contains only :math:`W_{hh} \, dh_{t-1}`. Transposed
by JAX, this rule gives the backward pass: a reverse scan for the cotangents of z, then one large product each
for the gradients of W_ih, W_hh and x. Forward mode and higher derivatives follow from the same rule.
"""

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTM, Cell, LSTMState
from jaxlstm.layer.precision import Precision, gate_dtype, linear
from jaxlstm.layer.scan import PLAIN, Recurrence, RecurrentTangents, concatenate_features


def over_time(
    params: Mapping[str, Any],
    inputs: Float[Array, "time batch features"],
    initial_state: tuple[Float[Array, "batch h_size"], Float[Array, "batch hidden_size"] | None],
    valid: Bool[Array, "time batch"] | None = None,
    *,
    reverse: bool = False,
    precision: Precision = precision_.DEFAULT,
    recurrence: Recurrence | None = None,
    cell: Cell = LSTM,
) -> tuple[Float[Array, "time batch h_size"], LSTMState]:
    """Run the cell over the time steps.

    Args:
      params: the parameters of one direction without suffix, ``weight_ih``, ``weight_hh`` and so on.
      valid: None if every step is valid.
      reverse: if True, run from the last step to the first. Each output stays at the time of its input.
      recurrence: the implementation; the plain scan if None.
      cell: the cell. The state of one without c is (h, None).

    Returns:
      Outputs (time, batch, h_size), zero where not valid, and the state after the last step.
    """
    settings = (recurrence or PLAIN, reverse, precision, cell)
    return _differentiable(dict(params), inputs, LSTMState(*initial_state), valid, *settings)  # type: ignore[arg-type]


# custom_jvp accepts non-differentiable arguments only by position.
@partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6, 7))
def _differentiable(
    params: dict[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    valid: jax.Array | None,
    recurrence: Recurrence,
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> tuple[jax.Array, LSTMState]:
    static: dict[str, Any] = {"reverse": reverse, "precision": precision, "cell": cell}
    return recurrence.forward(params, inputs, initial_state, valid, **static)


@partial(_differentiable.defjvp, symbolic_zeros=True)
def _differentiable_jvp(
    recurrence: Recurrence, reverse: bool, precision: Precision, cell: Cell, primals: tuple, tangents: tuple
) -> tuple:
    params, inputs, initial_state, valid = primals
    dparams, dinputs, dstate, _ = tangents
    static: dict[str, Any] = {"reverse": reverse, "precision": precision, "cell": cell}
    results, derivative, m = recurrence.forward_and_differentiate(*primals, **static)
    outputs, h_0, weight_ih = results[0], initial_state.h, params["weight_ih"]
    nonzero = _nonzero_tangents(dinputs, dparams, cell)
    dz = recurrence.gates_tangent(weight_ih, inputs, outputs, h_0, valid, nonzero, **static)
    dprojection = None
    if m is not None and not _is_zero(dparams["weight_hr"]):
        dprojection = linear(m, dparams["weight_hr"], precision=precision).astype(m.dtype)
    dstate = jax.tree.map(
        lambda d, x: jnp.zeros_like(x) if _is_zero(d) else d, dstate, initial_state, is_leaf=_is_zero
    )
    weights = {name: params[name] for name in ("weight_hh", "weight_hr") if name in params}
    tangents_of_outputs = RecurrentTangents(dz, dprojection, dstate)
    return results, recurrence.outputs_tangent(weights, derivative, valid, tangents_of_outputs, **static)


def both_over_time(
    params: Sequence[Mapping[str, Any]],
    inputs: Float[Array, "time batch features"],
    initial_states: Sequence[tuple[Float[Array, "batch h_size"], Float[Array, "batch hidden_size"] | None]],
    valid: Bool[Array, "time batch"] | None = None,
    *,
    precision: Precision = precision_.DEFAULT,
    recurrence: Recurrence | None = None,
    cell: Cell = LSTM,
) -> tuple[Float[Array, "time batch both_h_sizes"], tuple[LSTMState, LSTMState]]:
    """Run both directions of a layer: :func:`over_time` for each, the outputs side by side.

    Without derivatives both run at the same time, if the recurrence can.
    """
    states: Any = tuple(LSTMState(*state) for state in initial_states)  # type: ignore[arg-type]
    return _both(tuple(map(dict, params)), inputs, states, valid, recurrence or PLAIN, precision, cell)


@partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def _both(
    params: tuple[dict[str, Any], dict[str, Any]],
    inputs: jax.Array,
    initial_states: tuple[LSTMState, LSTMState],
    valid: jax.Array | None,
    recurrence: Recurrence,
    precision: Precision,
    cell: Cell,
) -> tuple[jax.Array, tuple[LSTMState, LSTMState]]:
    return recurrence.forward_both(params, inputs, initial_states, valid, precision=precision, cell=cell)


@partial(_both.defjvp, symbolic_zeros=True)
def _both_jvp(
    recurrence: Recurrence, precision: Precision, cell: Cell, primals: tuple, tangents: tuple
) -> tuple:
    (params, inputs, states, valid), (dparams, dinputs, dstates, dvalid) = primals, tangents
    each = [
        _differentiable_jvp(
            recurrence,
            d == 1,
            precision,
            cell,
            (params[d], inputs, states[d], valid),
            (dparams[d], dinputs, dstates[d], dvalid),
        )
        for d in (0, 1)
    ]

    (results, last), (dresults, dlast) = (zip(*pairs, strict=True) for pairs in zip(*each, strict=True))
    return (concatenate_features(results), last), (jnp.concatenate(dresults, axis=-1), dlast)


def _nonzero_tangents(dinputs: Any, dparams: dict[str, Any], cell: Cell) -> dict[str, jax.Array]:
    """Return the tangents for ``gates_tangent`` that are not symbolically zero."""
    tangents = {"inputs": dinputs, **{name: dparams[name] for name in ("weight_ih", "weight_hh")}}
    tangents = {name: tangent for name, tangent in tangents.items() if not _is_zero(tangent)}
    places = {"bias_ih": cell.of_x, "bias_hh": cell.of_h}
    biases = [
        cell.place(dparams[name].astype(gate_dtype(dparams[name].dtype)), places[name])
        for name in places
        if name in dparams and not _is_zero(dparams[name])
    ]
    if biases:
        tangents["bias"] = reduce(jnp.add, biases)
    return tangents


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)
