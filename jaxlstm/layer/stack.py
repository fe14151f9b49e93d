"""The loop over layers and directions.

Layer k reads the outputs of layer k-1, with both directions concatenated along the feature axis. States
are stacked in torch's order: layer 0 forward, layer 0 reverse, layer 1 forward, and so on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LayerConfig
from jaxlstm.layer.params import direction_params
from jaxlstm.layer.precision import Precision
from jaxlstm.layer.ragged import valid_steps
from jaxlstm.layer.scan import concatenate_features

DirectionFunction = Callable[[int, int, jax.Array, LSTMState], tuple[jax.Array, LSTMState]]
"""``(layer, direction, x, state)`` to the outputs and the final state of one direction of one layer."""

LayerFunction = Callable[[int, jax.Array, list[LSTMState]], tuple[jax.Array, list[LSTMState]]]
"""``(layer, x, states)`` to the outputs and the final states of the directions of one layer."""

BetweenLayers = Callable[[int, jax.Array], jax.Array]
"""``(layer, outputs)`` to the inputs of layer ``layer + 1``. It is not called for the last layer."""


StackFunction = Callable[..., tuple[jax.Array, Any]]
"""A function that runs a stack on one backend. It is called as :func:`stack_by_direction`, but without
``over_time`` and ``both_over_time``.
"""


def stack_by_direction(
    over_time: Callable[..., tuple[jax.Array, LSTMState]],
    both_over_time: Callable[..., tuple[jax.Array, Sequence[LSTMState]]],
    params: Mapping[str, Any],
    x: jax.Array,
    initial_state: LSTMState,
    lengths: jax.Array | None,
    *,
    config: LayerConfig,
    precision: Precision,
    between_layers: BetweenLayers | None = None,
) -> tuple[jax.Array, LSTMState]:
    """Run every layer and direction.

    ``over_time`` is called as :func:`jaxlstm.layer.direction.over_time`, but without ``recurrence``, and so
    is ``both_over_time`` for layers with two directions. Arguments and results are as for
    :func:`over_layers`. Inputs are zero after the end of each sequence. ``lengths`` are integers (B,), or
    None if every step is valid. A length of 0 leaves the row's state unchanged; a length above T counts as T.

    Returns:
      Outputs (T, B, D*h_size), zero after the end of each sequence, and the final state.
    """
    valid = None if lengths is None else valid_steps(lengths, x.shape[0])

    def each_direction(
        layer: int, direction: int, x: jax.Array, state: LSTMState
    ) -> tuple[jax.Array, LSTMState]:
        weights = direction_params(params, config, layer, direction)
        return over_time(weights, x, state, valid, reverse=direction == 1, precision=precision)

    def both_directions(
        layer: int, x: jax.Array, states: list[LSTMState]
    ) -> tuple[jax.Array, list[LSTMState]]:
        weights = [direction_params(params, config, layer, direction) for direction in (0, 1)]
        outputs, last = both_over_time(weights, x, states, valid, precision=precision)
        return outputs, list(last)

    each_layer = both_directions if config.num_directions == 2 else by_direction(each_direction)
    return over_layers(config, x, initial_state, each_layer, between_layers=between_layers)


def over_layers(
    config: LayerConfig,
    x: jax.Array,
    state: LSTMState,
    each_layer: LayerFunction,
    *,
    between_layers: BetweenLayers | None = None,
) -> tuple[jax.Array, LSTMState]:
    """Run every layer; each reads the outputs of the layer below.

    Args:
      config: the layers, for their number and the directions.
      x: inputs of the first layer, (T, B, input_size).
      state: h (L*D, B, h_size) and for an LSTM c (L*D, B, hidden_size), in torch's order.
      each_layer: ``(layer, x, states)`` to outputs (T, B, D*h_size) and the final states. ``states`` holds
        the state of each direction of the layer, whose arrays have no layer axis.
      between_layers: ``(layer, outputs)`` to the inputs of the next layer, such as dropout.

    Returns:
      Outputs of the last layer (T, B, D*h_size), and the final state, with the shapes of ``state``.
    """
    count = config.num_directions
    final: list[LSTMState] = []
    for layer in range(config.num_layers):
        slots = range(layer * count, (layer + 1) * count)
        states = [jax.tree.map(lambda leaf, slot=slot: leaf[slot], state) for slot in slots]
        x, last = each_layer(layer, x, states)
        final += last
        if between_layers is not None and layer < config.num_layers - 1:
            x = between_layers(layer, x)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *final)


def by_direction(each_direction: DirectionFunction) -> LayerFunction:
    """Return the function of a whole layer that runs one direction after the other.

    Direction 1 runs from the last step to the first.
    """

    def each_layer(layer: int, x: jax.Array, states: list[LSTMState]) -> tuple[jax.Array, list[LSTMState]]:
        results = [each_direction(layer, direction, x, state) for direction, state in enumerate(states)]
        return concatenate_features([y for y, _ in results]), [last for _, last in results]

    return each_layer


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Apply torch's inverted dropout: zero each element with probability ``rate``, scale the others."""
    if rate == 0.0:
        return x
    if rate == 1.0:
        return jnp.zeros_like(x)
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))
