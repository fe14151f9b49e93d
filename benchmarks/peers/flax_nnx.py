"""``flax.nnx.RNN`` with ``OptimizedLSTMCell``, stacked; two directions in ``flax.nnx.Bidirectional``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    del settings  # threads, device and precision are JAX's own
    config = problem.config
    if config.proj_size:
        raise Unsupported("has no projection")

    def outputs(weights: Any, x: jax.Array, lengths: jax.Array | None) -> jax.Array:
        shape = (config.num_layers * config.num_directions, x.shape[1], config.hidden_size)
        zeros = jnp.zeros(shape, x.dtype)
        y, _ = _lstm(weights, x, (zeros, zeros), lengths)
        if lengths is None:
            return y
        valid = jnp.arange(len(x))[:, None] < lengths
        return jnp.where(valid[:, :, None], y, 0)

    params = {name: jnp.asarray(value, problem.dtype) for name, value in problem.params.items()}
    return in_jax(outputs, _weights(params, config), problem)


def port(config: LSTMConfig) -> Callable[..., Any]:
    """Return a port for the checker, which leaves the library's outputs as they are."""

    def lstm(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        return _lstm(_weights(params, config), inputs, initial_state, seq_lengths)

    return lstm


def _weights(params: Mapping[str, Any], config: LSTMConfig) -> list[Any]:
    """By layer and direction: kernels (in, 4H) and the bias, which is the sum of torch's two."""

    def of_direction(layer: int, direction: int) -> dict[str, Any]:
        p = direction_params(params, config, layer, direction)
        return {"i": p["weight_ih"].T, "h": p["weight_hh"].T, "bias": p["bias_ih"] + p["bias_hh"]}

    return [
        [of_direction(layer, direction) for direction in range(config.num_directions)]
        for layer in range(config.num_layers)
    ]


def _lstm(weights: list[Any], x: Any, state: Any, lengths: Any) -> Any:
    """Run all layers; ``state`` is torch's (h, c), each (layers * directions, B, H)."""
    carries: list[Any] = []
    for layer in weights:
        rows = slice(len(carries), len(carries) + len(layer))
        h_0, c_0 = (array[rows] for array in state)
        before = list(zip(c_0, h_0, strict=True))  # Flax's state is (c, h)
        rnns = [_rnn(w, x) for w in layer]
        options: Any = {"time_major": True, "return_carry": True}
        if len(layer) > 1:
            both = nnx.Bidirectional(*rnns, **options)
            after, x = both(x, initial_carry=(before[0], before[1]), seq_lengths=lengths)
        else:
            carry, x = rnns[0](x, initial_carry=before[0], seq_lengths=lengths)
            after = [carry]
        carries += after
    c_n, h_n = (jnp.stack(arrays) for arrays in zip(*carries, strict=True))
    return x, (h_n, c_n)


def _rnn(w: Any, x: Any) -> nnx.RNN:
    """The module of one direction, with the input size and dtype of ``x``."""
    cell = nnx.OptimizedLSTMCell(x.shape[-1], len(w["h"]), param_dtype=x.dtype, rngs=nnx.Rngs(0))
    cell.dense_i.kernel = nnx.Param(w["i"])
    cell.dense_h.kernel = nnx.Param(w["h"])
    cell.dense_h.bias = nnx.Param(w["bias"])
    return nnx.RNN(cell, time_major=True, return_carry=True)
