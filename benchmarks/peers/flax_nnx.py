"""``flax.nnx.RNN`` with ``OptimizedLSTMCell``, stacked; two directions in ``flax.nnx.Bidirectional``."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxlstm
from benchmarks.parts import Settings
from benchmarks.problems import Implementation, Problem, Unsupported, in_jax


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Return the benchmark's calls. Outputs after the end of a sequence are zeroed, as in torch."""
    del settings  # the threads are JAX's
    if problem.config.proj_size:
        raise Unsupported("has no projection")
    static, *weights, rest = nnx.split(_layers(problem), nnx.Param, ...)

    def outputs(weights: list[Any], x: jax.Array, lengths: jax.Array | None) -> jax.Array:
        for layer in nnx.merge(static, *weights, rest, copy=True):
            x = layer(x, seq_lengths=lengths)
        if lengths is None:
            return x
        valid = jnp.arange(len(x))[:, None] < lengths
        return jnp.where(valid[:, :, None], x, 0)

    return in_jax(outputs, weights, problem)


def _layers(problem: Problem) -> nnx.List:
    """Return the modules of all layers, with the weights of the problem."""
    config, layers = problem.config, nnx.List()
    size = config.input_size
    options = {"param_dtype": problem.dtype, "recurrent_kernel_init": jax.nn.initializers.zeros}
    for _ in range(config.num_layers):
        cells = [
            nnx.OptimizedLSTMCell(size, config.hidden_size, **options, rngs=nnx.Rngs(0))
            for _ in range(config.num_directions)
        ]
        rnns = [nnx.RNN(cell, time_major=True) for cell in cells]
        layers.append(nnx.Bidirectional(*rnns, time_major=True) if config.bidirectional else rnns[0])
        size = config.num_directions * config.hidden_size
    each = {re.sub(r"(.*_l)(\d+)", r"\2.\g<1>0", name): array for name, array in problem.params.items()}
    jaxlstm.load_state_dict(layers, each)
    return layers
