"""A whole LSTM out of a library in JAX that has one direction of one layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.bench.jax_side import jax_side
from jaxlstm.bench.setting import Setting
from jaxlstm.bench.side import Side, Unsupported
from jaxlstm.bench.sizes import Problem
from jaxlstm.config import LSTMConfig
from jaxlstm.params import direction_params

State = tuple[jax.Array, jax.Array]


class Direction(NamedTuple):
    """One direction of one layer in some library.

    Attributes:
      weights: ``weights(params)``, the library's own tree, out of the parameters of one direction under
        torch's names without suffix.
      run: ``run(weights, x, (h_0, c_0), lengths, reverse)``, its answer to inputs (T, B, features) and states
        (B, H), as ``outputs, (h_n, c_n)``, just as the library gives it.
      takes_lengths: whether ``lengths`` may be an array (B,) and not None alone.
      both: ``both((forward, backward), x, (h_0, c_0), lengths)``, the library's own wrapper of two
        directions, with states (2, B, H) and outputs (T, B, 2H); None if it has no wrapper.
    """

    weights: Callable[[Mapping[str, Any]], Any]
    run: Callable[..., tuple[jax.Array, State]]
    takes_lengths: bool
    both: Callable[..., tuple[jax.Array, State]] | None = None


def port(direction: Direction, config: LSTMConfig) -> Callable[..., Any]:
    """A port for the checker: layer upon layer, each layer's outputs as the library gives them.

    Two directions are the library's own wrapper where it has one, else one after the other.
    """

    def layer(weights: list[Any], x: Any, state: State, lengths: Any) -> tuple[Any, State]:
        if direction.both is not None and len(weights) > 1:
            return direction.both(weights, x, state, lengths)
        runs = [
            direction.run(w, x, (h, c), lengths, reverse)
            for w, h, c, reverse in zip(weights, *state, (False, True), strict=False)
        ]
        outputs = jnp.concatenate([outputs for outputs, _ in runs], axis=-1)
        h, c = (jnp.stack(a) for a in zip(*(state for _, state in runs), strict=True))
        return outputs, (h, c)

    def lstm(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        x, states = inputs, []
        for place, weights in enumerate(_weights(direction, params, config)):
            here = slice(place * config.num_directions, (place + 1) * config.num_directions)
            h_0, c_0 = initial_state
            x, state = layer(weights, x, (h_0[here], c_0[here]), seq_lengths)
            states.append(state)
        h_n, c_n = (jnp.concatenate(a) for a in zip(*states, strict=True))
        return x, (h_n, c_n)

    return lstm


def _weights(direction: Direction, params: Mapping[str, Any], config: LSTMConfig) -> list[Any]:
    """The library's trees, by layer and direction."""
    return [
        [
            direction.weights(direction_params(params, config, layer, d))
            for d in range(config.num_directions)
        ]
        for layer in range(config.num_layers)
    ]


def bias(params: Mapping[str, Any]) -> Any:
    """The one bias of other libraries: the sum of torch's two."""
    return params["bias_ih"] + params["bias_hh"]


def side(direction: Direction, problem: Problem, setting: Setting) -> Side:
    """Layers and directions as torch composes them. Threads, device and precision are JAX's own.

    What lies behind a sequence's end is zeroed here, since some libraries leave numbers there.
    """
    del setting
    config = problem.config
    if config.proj_size:
        raise Unsupported("has no projection")
    if problem.lengths is not None and not direction.takes_lengths:
        raise Unsupported("takes no lengths")

    def apply(weights: Any, x: jax.Array, lengths: jax.Array | None) -> jax.Array:
        zeros = jnp.zeros((x.shape[1], config.hidden_size), x.dtype)
        for layer in weights:
            outputs = [
                direction.run(w, x, (zeros, zeros), lengths, reverse)[0]
                for w, reverse in zip(layer, (False, True), strict=False)
            ]
            x = jnp.concatenate(outputs, axis=-1)
            if lengths is not None:
                valid = jnp.arange(len(x))[:, None] < lengths
                x = jnp.where(valid[:, :, None], x, 0)
        return x

    params = {name: jnp.asarray(value) for name, value in problem.params.items()}
    return jax_side(apply, _weights(direction, params, config), problem)
