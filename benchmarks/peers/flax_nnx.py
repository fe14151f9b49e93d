"""``flax.nnx.RNN`` with ``OptimizedLSTMCell``, stacked; two directions in ``flax.nnx.Bidirectional``."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.parts import Settings
from benchmarks.problems import Implementation, Problem, Unsupported, in_jax
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import direction_params


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Return the benchmark's calls. Outputs after the end of a sequence are zeroed, as in torch."""
    del settings  # the threads are JAX's
    config = problem.config
    if config.proj_size:
        raise Unsupported("has no projection")

    def outputs(weights: Any, x: jax.Array, lengths: jax.Array | None) -> jax.Array:
        y = _lstm(weights, x, lengths)
        if lengths is None:
            return y
        valid = jnp.arange(len(x))[:, None] < lengths
        return jnp.where(valid[:, :, None], y, 0)

    params = {name: jnp.asarray(value, problem.dtype) for name, value in problem.params.items()}
    return in_jax(outputs, _weights(params, config), problem)


def _weights(params: Mapping[str, Any], config: LSTMConfig) -> list[Any]:
    """By layer and direction: kernels (in, 4H) and the bias, which is the sum of torch's two."""

    def of_direction(layer: int, direction: int) -> dict[str, Any]:
        p = direction_params(params, config, layer, direction)
        return {"i": p["weight_ih"].T, "h": p["weight_hh"].T, "bias": p["bias_ih"] + p["bias_hh"]}

    return [
        [of_direction(layer, direction) for direction in range(config.num_directions)]
        for layer in range(config.num_layers)
    ]


def _lstm(weights: list[Any], x: Any, lengths: jax.Array | None) -> jax.Array:
    """Run all layers from a state of zeros."""
    for layer in weights:
        rnns = [_rnn(w, x) for w in layer]
        whole = nnx.Bidirectional(*rnns, time_major=True) if len(rnns) > 1 else rnns[0]
        x = whole(x, seq_lengths=lengths)
    return x


def _rnn(w: Any, x: Any) -> nnx.RNN:
    """The module of one direction, with the input size and dtype of ``x``."""
    cell = nnx.OptimizedLSTMCell(x.shape[-1], len(w["h"]), param_dtype=x.dtype, rngs=nnx.Rngs(0))
    cell.dense_i.kernel = nnx.Param(w["i"])
    cell.dense_h.kernel = nnx.Param(w["h"])
    cell.dense_h.bias = nnx.Param(w["bias"])
    return nnx.RNN(cell, time_major=True)
