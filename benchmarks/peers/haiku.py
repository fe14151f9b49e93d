"""``haiku.LSTM`` in ``haiku.dynamic_unroll``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.peers import layers


def weights(params: Mapping[str, Any]) -> Any:
    """Return one kernel (in + H, 4H) with the gates i, g, f, o; Haiku adds 1 to the bias of f."""
    kernel = jnp.concatenate([params["weight_ih"], params["weight_hh"]], axis=1)
    own_bias = layers.bias(params)
    added = jnp.repeat(jnp.asarray([0, 0, 1, 0], own_bias.dtype), len(own_bias) // 4)
    return {"w": _reorder_gates(kernel).T, "b": _reorder_gates(own_bias) - added}


def _reorder_gates(rows: jax.Array) -> jax.Array:
    i, f, g, o = jnp.split(rows, 4)
    return jnp.concatenate([i, g, f, o])


def run(w: Any, x: Any, state: Any, lengths: Any, reverse: bool) -> Any:
    """Apply the transformed loop."""
    assert lengths is None
    hidden_size = len(w["b"]) // 4

    def unroll(x: Any, h: Any, c: Any) -> Any:
        return hk.dynamic_unroll(hk.LSTM(hidden_size), x, hk.LSTMState(h, c), reverse=reverse)

    apply = hk.without_apply_rng(hk.transform(unroll)).apply
    outputs, (h, c) = apply({"lstm/linear": w}, x, *state)
    return outputs, (h, c)


DIRECTION = layers.Direction(weights, run, takes_lengths=False)
implementation = partial(layers.implementation, DIRECTION)
