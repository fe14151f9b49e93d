"""Layers and directions composed.

Layer k reads the outputs of layer k-1, both directions side by side on the feature axis. States are
stacked as torch stacks them: layer 0 forward, layer 0 reverse, layer 1 forward, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.kernels import select_recurrence
from jaxlstm.lengths import valid_steps
from jaxlstm.params import direction_params
from jaxlstm.placement import split_alike, varying_alike
from jaxlstm.precision import Precision
from jaxlstm.scan import scan_direction

RunDirection = Callable[[int, int, jax.Array, LSTMState], tuple[jax.Array, LSTMState]]
"""(layer, direction, x, state) to the outputs and the last state of one direction of one layer."""


class How(NamedTuple):
    """What decides how fast and how exactly, and not what."""

    precision: Precision
    backend: str


def run_layers(
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
    how_to_run = select_recurrence(
        how.backend,
        x.dtype,
        weights=4 * config.hidden_size * (config.input_size + config.h_size),
        rows=x.shape[0] * x.shape[1],
    )

    def run_direction(
        layer: int, direction: int, x: jax.Array, state: LSTMState
    ) -> tuple[jax.Array, LSTMState]:
        return scan_direction(
            direction_params(params, config, layer, direction),
            x,
            state,
            valid,
            reverse=direction == 1,
            precision=how.precision,
            recurrence=how_to_run,
        )

    return over_layers(
        config,
        x,
        initial_state,
        run_direction,
        between_layers=lambda layer, x: _behind(layer, x, config, dropout_key),
    )


def over_layers(
    config: LSTMConfig,
    x: jax.Array,
    state: tuple[jax.Array, jax.Array],
    run_direction: RunDirection,
    *,
    between_layers: Callable[[int, jax.Array], jax.Array] = lambda layer, x: x,
) -> tuple[jax.Array, LSTMState]:
    """Run every layer in each direction; each layer reads the outputs of the layer below.

    Args:
      config: the LSTM, for its number of layers and directions.
      x: inputs of the first layer, (T, B, input_size).
      state: h (L*D, B, h_size) and c (L*D, B, hidden_size), in torch's order: layer 0 forward, layer 0
        reverse, layer 1 forward, and so on.
      run_direction: ``(layer, direction, x, LSTMState(h, c))`` to outputs (T, B, h_size) and the last state
        of one direction, whose arrays have no layer axis. Direction 1 runs from the last step to the first.
      between_layers: ``(layer, outputs)`` to the inputs of the next layer, such as dropout. It is not called
        for the last layer.

    Returns:
      Outputs of the last layer (T, B, D*h_size), and the last state, of the shapes of ``state``.
    """
    final: list[LSTMState] = []
    for layer in range(config.num_layers):
        outputs = []
        for direction in range(config.num_directions):
            slot = layer * config.num_directions + direction
            output, last = run_direction(layer, direction, x, LSTMState(state[0][slot], state[1][slot]))
            outputs.append(output)
            final.append(last)
        x = jnp.concatenate(outputs, axis=-1)
        if layer < config.num_layers - 1:
            x = between_layers(layer, x)
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
    """As :func:`run_layers`: all layers in one call, or where dropout is between them one by one."""
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
