"""``keras.layers.LSTM`` on JAX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported

import keras

from jaxlstm.bench.peers import layers


def weights(params: Mapping[str, Any]) -> Any:
    """Kernels (in, 4H) and the bias, in the order of the layer's own list."""
    return [params["weight_ih"].T, params["weight_hh"].T, layers.bias(params)]


def run(w: Any, x: Any, state: Any, lengths: Any, reverse: bool) -> Any:
    """Keras takes (B, T, features); backwards it gives its outputs in the order in which they came."""
    layer = keras.layers.LSTM(
        len(w[1]),
        return_sequences=True,
        return_state=True,
        go_backwards=reverse,
        zero_output_for_mask=True,  # else a step of padding repeats the output before it
        dtype=str(x.dtype),
    )
    layer.build((None, *x.shape[::2]))
    others = [variable.value for variable in layer.non_trainable_variables]
    mask = None if lengths is None else jnp.arange(len(x)) < lengths[:, None]
    answer: Any = layer.stateless_call(
        w, others, x.swapaxes(0, 1), initial_state=list(state), mask=mask
    )
    (outputs, h, c), _ = answer
    outputs = outputs.swapaxes(0, 1)
    return (outputs[::-1] if reverse else outputs), (h, c)


DIRECTION = layers.Direction(weights, run, takes_lengths=True)
side = partial(layers.side, DIRECTION)
