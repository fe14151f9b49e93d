"""The public functions: ``lstm``, which is ``torch.nn.LSTM.forward``, and ``lstm_cell``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState, cell_step, input_gates
from jaxlstm.config import LSTMConfig
from jaxlstm.packed import PackedSequence, packed_rows, padded_rows
from jaxlstm.precision import Precision, resolve
from jaxlstm.stack import How, run_layers
from jaxlstm.validate import cell_arguments, lstm_arguments, require_backend

Inputs = TypeVar("Inputs", jax.Array, PackedSequence)


def lstm(
    params: Mapping[str, Any],
    inputs: Inputs | np.ndarray,
    initial_state: tuple[Any, Any] | None = None,
    *,
    config: LSTMConfig,
    seq_lengths: Any = None,
    dropout_key: jax.Array | None = None,
    precision: Precision = precision_.DEFAULT,
    backend: str = "auto",
) -> tuple[Inputs, LSTMState]:
    """A multi-layer LSTM over whole sequences: ``torch.nn.LSTM`` as a pure function.

    With T time steps, B sequences, L layers, D directions, H = hidden_size and P = ``config.h_size``
    (proj_size, or H without projection):

    Args:
      params: parameters under torch's names; shapes in :func:`jaxlstm.param_shapes`.
      inputs: (T, B, input_size); (B, T, input_size) with ``config.batch_first``; (T, input_size) for
        one sequence alone; or a :class:`jaxlstm.PackedSequence`.
      initial_state: (h_0, c_0) of shapes (L*D, B, P) and (L*D, B, H), without B for one sequence alone;
        zeros if None.
      config: the LSTM; static under ``jax.jit``.
      seq_lengths: integers (B,), each from 1 to T, in any order: the valid steps of each sequence. What
        lies behind them does not matter; outputs there are zero. Under ``jax.jit`` the values cannot be
        checked: 0 then leaves the row's state as it was, and more than T counts as T.
      dropout_key: a JAX random key: training, with ``config.dropout`` between layers. None: inference.
      precision: of every matrix product, see :mod:`jaxlstm.precision`.
      backend: "scan", the plain scan in JAX; "native", the kernel for CPUs; "pallas", that for GPUs or
        TPUs; "cudnn", NVIDIA's library; "auto", the native kernel where it was built and knows the dtype,
        else the plain scan, see :mod:`jaxlstm.kernels`.

    Returns:
      ``(outputs, LSTMState(h_n, c_n))``. Outputs have the axes of the inputs and D*P features; the
      states have the shapes of ``initial_state``; all have the dtype of ``inputs``.

    Raises:
      TypeError, ValueError: an argument does not fit; the message names it and says what does.
      RuntimeError: the backend that is asked for cannot be had; the message says why.
    """
    require_backend(backend)
    how = How(
        resolve(precision), backend
    )  # here: JAX's default may be another when a kernel is compiled
    outputs: Any  # of the kind of the inputs, which a type checker cannot follow
    if isinstance(inputs, PackedSequence):
        outputs, final = _lstm_packed(
            params, inputs, initial_state, seq_lengths, config, dropout_key, how
        )
        return outputs, final
    params, x, state, lengths = lstm_arguments(params, inputs, initial_state, seq_lengths, config)
    batched = inputs.ndim == 3
    time_axis = 1 if batched and config.batch_first else 0
    x = jnp.moveaxis(x, time_axis, 0)
    outputs, final = run_layers(params, x, state, lengths, config, dropout_key, how)
    outputs = jnp.moveaxis(outputs, 0, time_axis)
    if batched:
        return outputs, final
    return outputs[:, 0], LSTMState(final.h[:, 0], final.c[:, 0])


def _lstm_packed(
    params: Mapping[str, Any],
    packed: PackedSequence,
    initial_state: tuple[Any, Any] | None,
    seq_lengths: Any,
    config: LSTMConfig,
    dropout_key: jax.Array | None,
    how: How,
) -> tuple[PackedSequence, LSTMState]:
    """A packed sequence in and out, as in torch: states are in the caller's order, not the sorted one."""
    if seq_lengths is not None:
        raise ValueError(
            "seq_lengths must be None with a PackedSequence, which has its own lengths"
        )
    padded, lengths = padded_rows(packed)
    params, x, state, lengths = lstm_arguments(params, padded, initial_state, lengths, config, 0)
    state = LSTMState(*(packed.sort_rows(leaf, axis=1) for leaf in state))
    outputs, final = run_layers(params, x, state, lengths, config, dropout_key, how)
    final = LSTMState(*(packed.unsort_rows(leaf, axis=1) for leaf in final))
    return packed_rows(outputs, packed), final


def lstm_cell(
    params: Mapping[str, Any],
    x: Any,
    state: tuple[Any, Any] | None = None,
    *,
    precision: Precision = precision_.DEFAULT,
) -> LSTMState:
    """One step: ``torch.nn.LSTMCell``, and with ``weight_hr`` among the params a projected one.

    Args:
      params: ``weight_ih`` (4H, input_size), ``weight_hh`` (4H, h_size), and ``bias_ih``, ``bias_hh``
        (4H,) or neither; gates in the order i, f, g, o.
      x: input, (batch, input_size) or (input_size,).
      state: (h, c), each (batch, hidden_size) or (hidden_size,); zeros if None.
      precision: of the matrix products, see :mod:`jaxlstm.precision`.

    Returns:
      LSTMState(h, c) of the shapes and dtype of the state that came in.

    Raises:
      TypeError, ValueError: params, x or state do not fit each other; the message says which.
    """
    params, x, state = cell_arguments(params, x, state)
    return cell_step(
        params, input_gates(params, x, precision=precision), state, precision=precision
    )
