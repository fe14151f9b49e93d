"""One direction of one layer over time, on ``jax.lax.scan``.

The input projection of all time steps is one large product before the loop; inside it only ``W_hh h``
is left, since it alone has to wait. Time is the first axis throughout.

A ragged batch needs no reordering. Where a step is not valid the state stands still and the output is
zero: running forwards the state left at the end is then that of the last valid step, and running
backwards it stays the initial one until the row's own last step, which is the reversal inside each
length that torch does for packed sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState, cell_step, input_gates
from jaxlstm.precision import Precision


def scan_direction(
    params: Mapping[str, Any],
    inputs: Float[Array, "time batch features"],
    initial_state: tuple[Float[Array, "batch h_size"], Float[Array, "batch hidden_size"]],
    valid: Bool[Array, "time batch"] | None = None,
    *,
    reverse: bool = False,
    precision: Precision = precision_.DEFAULT,
) -> tuple[Float[Array, "time batch h_size"], LSTMState]:
    """Run the cell over time.

    Args:
      params: ``weight_ih``, ``weight_hh`` and the optional ones, of one direction, without suffix.
      inputs: (time, batch, features).
      initial_state: h (batch, h_size), c (batch, hidden_size).
      valid: bool (time, batch), or None if every step is.
      reverse: from the last step to the first; outputs stay at the time of their input.

    Returns:
      Outputs (time, batch, h_size), zero where not valid, and the state after the last step taken.
    """

    def step(state: LSTMState, step_inputs: tuple) -> tuple[LSTMState, jax.Array]:
        x_gates, step_valid = step_inputs
        new = cell_step(params, x_gates, state, precision=precision)
        if step_valid is None:
            return new, new.h
        row = step_valid[:, None]
        kept = LSTMState(jnp.where(row, new.h, state.h), jnp.where(row, new.c, state.c))
        return kept, jnp.where(row, new.h, jnp.zeros_like(new.h))

    x_gates = input_gates(params, inputs, precision=precision)
    final_state, outputs = lax.scan(
        step, LSTMState(*initial_state), (x_gates, valid), reverse=reverse
    )
    return outputs, final_state
