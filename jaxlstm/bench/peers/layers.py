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
    """

    weights: Callable[[Mapping[str, Any]], Any]
    run: Callable[..., tuple[jax.Array, State]]
    takes_lengths: bool


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
    directions = range(config.num_directions)

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
    weights = [
        [direction.weights(direction_params(params, config, layer, d)) for d in directions]
        for layer in range(config.num_layers)
    ]
    return jax_side(apply, weights, problem)
