"""A whole LSTM built from a JAX library that provides one direction of one layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.implementation import Implementation, Unsupported, in_jax
from benchmarks.problems import Problem
from benchmarks.settings import Settings
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import direction_params

State = tuple[jax.Array, jax.Array]


class Direction(NamedTuple):
    """One direction of one layer in some library.

    Attributes:
      weights: ``weights(params)`` converts the parameters of one direction, under torch's names without
        suffix, to the library's own tree.
      run: ``run(weights, x, (h_0, c_0), lengths, reverse)`` returns ``outputs, (h_n, c_n)`` for inputs (T, B,
        features) and states (B, H), just as the library gives them.
      takes_lengths: whether ``lengths`` may be an array (B,), or only None.
      both: ``both((forward, backward), x, (h_0, c_0), lengths)`` runs the library's own wrapper of two
        directions, with states (2, B, H) and outputs (T, B, 2H). None if it has no wrapper.
    """

    weights: Callable[[Mapping[str, Any]], Any]
    run: Callable[..., tuple[jax.Array, State]]
    takes_lengths: bool
    both: Callable[..., tuple[jax.Array, State]] | None = None


def bias(params: Mapping[str, Any]) -> Any:
    """Return the single bias of other libraries: the sum of torch's two."""
    return params["bias_ih"] + params["bias_hh"]


def port(direction: Direction, config: LSTMConfig) -> Callable[..., Any]:
    """Return a port for the checker, which stacks layers and leaves the library's outputs as they are."""

    def lstm(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        weights = _weights(direction, params, config)
        return _stack(direction, weights, inputs, initial_state, seq_lengths)

    return lstm


def implementation(direction: Direction, problem: Problem, settings: Settings) -> Implementation:
    """Return the benchmark's calls. Outputs after the end of a sequence are zeroed, as in torch."""
    del settings  # threads, device and precision are JAX's own
    config = problem.config
    if config.proj_size:
        raise Unsupported("has no projection")
    if problem.lengths is not None and not direction.takes_lengths:
        raise Unsupported("takes no lengths")

    def apply(weights: Any, x: jax.Array, lengths: jax.Array | None) -> jax.Array:
        shape = (config.num_layers * config.num_directions, x.shape[1], config.hidden_size)
        zeros = jnp.zeros(shape, x.dtype)
        outputs, _ = _stack(direction, weights, x, (zeros, zeros), lengths)
        if lengths is None:
            return outputs
        valid = jnp.arange(len(x))[:, None] < lengths
        return jnp.where(valid[:, :, None], outputs, 0)

    params = {name: jnp.asarray(value, problem.dtype) for name, value in problem.params.items()}
    return in_jax(apply, _weights(direction, params, config), problem)


def _weights(direction: Direction, params: Mapping[str, Any], config: LSTMConfig) -> list[Any]:
    """The library's trees by layer and direction."""
    return [
        [direction.weights(direction_params(params, config, layer, d)) for d in range(config.num_directions)]
        for layer in range(config.num_layers)
    ]


def _stack(direction: Direction, weights: list[Any], x: Any, state: Any, lengths: Any) -> Any:
    """Run all layers; ``state`` is torch's (h, c), each (layers * directions, B, H)."""
    states = []
    for number, layer in enumerate(weights):
        rows = slice(number * len(layer), (number + 1) * len(layer))
        x, layer_state = _layer(direction, layer, x, tuple(a[rows] for a in state), lengths)
        states.append(layer_state)
    h_n, c_n = (jnp.concatenate(a) for a in zip(*states, strict=True))
    return x, (h_n, c_n)


def _layer(direction: Direction, weights: list[Any], x: Any, state: Any, lengths: Any) -> Any:
    """Run two directions by the library's wrapper if it has one, else one after the other."""
    if direction.both is not None and len(weights) > 1:
        return direction.both(weights, x, state, lengths)
    runs = [
        direction.run(w, x, (h, c), lengths, reverse)
        for w, h, c, reverse in zip(weights, *state, (False, True), strict=False)
    ]
    outputs = jnp.concatenate([outputs for outputs, _ in runs], axis=-1)
    h, c = (jnp.stack(a) for a in zip(*(state for _, state in runs), strict=True))
    return outputs, (h, c)
