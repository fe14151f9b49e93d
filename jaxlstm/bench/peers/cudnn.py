"""cuDNN's LSTM as JAX calls it, ``jax.experimental.rnn``, on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn

from jaxlstm.bench.jax_side import jax_side
from jaxlstm.bench.setting import Setting
from jaxlstm.bench.side import Side, Unsupported
from jaxlstm.bench.sizes import Problem
from jaxlstm.config import LSTMConfig
from jaxlstm.params import direction_params


def side(problem: Problem, setting: Setting) -> Side:
    """All layers in one call; TF32 or float32, as the setting says."""
    config = problem.config
    if config.proj_size:
        raise Unsupported("has no projection")
    precision = "highest" if setting.arithmetic == "float32" else "tensorfloat32"

    def apply(weights: Any, x: jax.Array, lengths: jax.Array | None) -> jax.Array:
        time, batch = x.shape[:2]
        h_0, c_0 = (jnp.zeros(shape, x.dtype) for shape in config.state_shapes(batch))
        if lengths is None:
            lengths = jnp.full(batch, time, jnp.int32)
        call: Any = rnn.lstm
        y, _, _ = call(
            x.swapaxes(0, 1),
            h_0,
            c_0,
            weights,
            lengths,
            config.input_size,
            config.hidden_size,
            config.num_layers,
            0.0,  # dropout
            config.bidirectional,
            precision,
        )
        return y.swapaxes(0, 1)

    return jax_side(apply, jnp.asarray(packed(problem.params, config)), problem)


def packed(params: Mapping[str, np.ndarray], config: LSTMConfig) -> np.ndarray:
    """Every weight, then every bias, end to end: cuDNN's gates are torch's, i, f, g, o."""
    each = [
        direction_params(params, config, layer, direction)
        for layer in range(config.num_layers)
        for direction in range(config.num_directions)
    ]
    order = (("weight_ih", "weight_hh"), ("bias_ih", "bias_hh"))
    return np.concatenate([np.ravel(w[name]) for names in order for w in each for name in names])
