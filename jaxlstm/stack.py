"""Layers and directions composed: ``lstm``, which is ``torch.nn.LSTM.forward``.

Layer k reads the outputs of layer k-1, both directions side by side on the feature axis. States are
stacked as torch stacks them: layer 0 forward, layer 0 reverse, layer 1 forward, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.kernels import recurrence
from jaxlstm.lengths import valid_steps
from jaxlstm.packed import PackedSequence, packed_rows, padded_rows
from jaxlstm.params import direction_params
from jaxlstm.placement import split_alike, varying_alike
from jaxlstm.precision import Precision, resolve
from jaxlstm.scan import scan_direction
from jaxlstm.validate import lstm_arguments, require_backend

Inputs = TypeVar("Inputs", jax.Array, PackedSequence)


class How(NamedTuple):
    """What decides how fast and how exactly, and not what."""

    precision: Precision
    backend: str


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
    outputs, final = _run_layers(params, x, state, lengths, config, dropout_key, how)
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
    outputs, final = _run_layers(params, x, state, lengths, config, dropout_key, how)
    final = LSTMState(*(packed.unsort_rows(leaf, axis=1) for leaf in final))
    return packed_rows(outputs, packed), final


def _run_layers(
    params: Mapping[str, Any],
    x: jax.Array,
    initial_state: LSTMState,
    lengths: jax.Array | None,
    config: LSTMConfig,
    dropout_key: jax.Array | None,
    how: How,
) -> tuple[jax.Array, LSTMState]:
    """Every layer over time-major, batched inputs (T, B, features)."""
    arguments = (params, x, initial_state, lengths)
    params, x, initial_state, lengths = split_alike(arguments, (None, 1, 1, 0))
    initial_state = varying_alike(initial_state, (params, x, lengths))
    valid = None if lengths is None else valid_steps(lengths, x.shape[0])
    if valid is not None:
        # Padding may hold anything, and 0 * NaN in the backward pass would be NaN.
        x = jnp.where(valid[:, :, None], x, jnp.zeros_like(x))
    if how.backend == "cudnn":
        return _run_cudnn(params, x, initial_state, lengths, config, dropout_key, how.precision)
    how_to_run = recurrence(
        how.backend,
        x.dtype,
        weights=4 * config.hidden_size * (config.input_size + config.h_size),
        rows=x.shape[0] * x.shape[1],
    )
    final: list[LSTMState] = []
    for layer in range(config.num_layers):
        outputs = []
        for direction in range(config.num_directions):
            slot = layer * config.num_directions + direction
            output, state = scan_direction(
                direction_params(params, config, layer, direction),
                x,
                LSTMState(initial_state.h[slot], initial_state.c[slot]),
                valid,
                reverse=direction == 1,
                precision=how.precision,
                recurrence=how_to_run,
            )
            outputs.append(output)
            final.append(state)
        x = _behind(layer, jnp.concatenate(outputs, axis=-1), config, dropout_key)
    return x, LSTMState(jnp.stack([s.h for s in final]), jnp.stack([s.c for s in final]))


def _run_cudnn(
    params: Mapping[str, Any],
    x: jax.Array,
    initial_state: LSTMState,
    lengths: jax.Array | None,
    config: LSTMConfig,
    dropout_key: jax.Array | None,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    """As :func:`_run_layers`: all layers in one call, or where dropout is between them one by one."""
    from jaxlstm.kernels.gpu import cudnn

    every = range(config.num_layers)
    final: list[LSTMState] = []
    for layers in [every] if dropout_key is None else [range(layer, layer + 1) for layer in every]:
        slots = slice(layers.start * config.num_directions, layers.stop * config.num_directions)
        state = LSTMState(initial_state.h[slots], initial_state.c[slots])
        x, state = cudnn.run_layers(params, x, state, lengths, config, layers, precision)
        final.append(state)
        x = _behind(layers.stop - 1, x, config, dropout_key)
    return x, LSTMState(*(jnp.concatenate(leaves) for leaves in zip(*final, strict=True)))


def _behind(
    layer: int, x: jax.Array, config: LSTMConfig, dropout_key: jax.Array | None
) -> jax.Array:
    """A layer's outputs as the next one gets them: in training with dropout, of a mask for each layer."""
    if dropout_key is None or layer == config.num_layers - 1:
        return x
    return dropout(jax.random.fold_in(dropout_key, layer), x, config.dropout)


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Inverted dropout as in torch: each element is zero with chance ``rate``, else x / (1 - rate)."""
    if rate == 0.0:
        return x
    if rate == 1.0:
        return jnp.zeros_like(x)
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))
