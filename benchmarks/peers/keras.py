"""``keras.layers.LSTM`` on JAX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported

import keras

from benchmarks.peers import layers


def weights(params: Mapping[str, Any]) -> Any:
    """Return kernels (in, 4H) and the bias, in the order of the layer's weight list."""
    return [params["weight_ih"].T, params["weight_hh"].T, layers.bias(params)]


def layer(w: Any, x: Any, **settings: Any) -> Any:
    """Return the layer of one direction."""
    return keras.layers.LSTM(
        len(w[1]),
        return_sequences=True,
        return_state=True,
        zero_output_for_mask=True,  # otherwise padding repeats the last output
        dtype=str(x.dtype),
        **settings,
    )


def call(module: Any, w: Any, x: Any, state: list[Any], lengths: Any) -> Any:
    """Return outputs and final states. Keras takes (B, T, features), and a mask for lengths."""
    module.build((None, *x.shape[::2]))
    frozen = [variable.value for variable in module.non_trainable_variables]
    mask = None if lengths is None else jnp.arange(len(x)) < lengths[:, None]
    result, _ = module.stateless_call(w, frozen, x.swapaxes(0, 1), initial_state=state, mask=mask)
    outputs, *state = result
    return outputs.swapaxes(0, 1), state


def run(w: Any, x: Any, state: Any, lengths: Any, reverse: bool) -> Any:
    """Run one direction. Backwards, Keras returns the outputs in reverse order of time."""
    outputs, (h, c) = call(layer(w, x, go_backwards=reverse), w, x, list(state), lengths)
    return (outputs[::-1] if reverse else outputs), (h, c)


def both(w: Any, x: Any, state: Any, lengths: Any) -> Any:
    """Run ``keras.layers.Bidirectional``, whose states are h and c of one direction, then of the other."""
    forward, backward = w
    module = keras.layers.Bidirectional(layer(forward, x), dtype=str(x.dtype))
    states = [a[d] for d in (0, 1) for a in state]
    outputs, (h, c, h_back, c_back) = call(module, [*forward, *backward], x, states, lengths)
    return outputs, (jnp.stack([h, h_back]), jnp.stack([c, c_back]))


DIRECTION = layers.Direction(weights, run, takes_lengths=True, both=both)
implementation = partial(layers.implementation, DIRECTION)
