"""``flax.nnx.RNN`` with ``OptimizedLSTMCell``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx

from benchmarks.peers import layers


def weights(params: Mapping[str, Any]) -> Any:
    """Return kernels (in, 4H) and the bias."""
    return {"i": params["weight_ih"].T, "h": params["weight_hh"].T, "bias": layers.bias(params)}


def rnn(w: Any, x: Any, **settings: Any) -> nnx.RNN:
    """Return the module of one direction, with the input size and dtype of ``x``."""
    cell = nnx.OptimizedLSTMCell(x.shape[-1], len(w["h"]), param_dtype=x.dtype, rngs=nnx.Rngs(0))
    cell.dense_i.kernel = nnx.Param(w["i"])
    cell.dense_h.kernel = nnx.Param(w["h"])
    cell.dense_h.bias = nnx.Param(w["bias"])
    return nnx.RNN(cell, time_major=True, return_carry=True, **settings)


def run(w: Any, x: Any, state: Any, lengths: Any, reverse: bool) -> Any:
    """Run one direction. Flax's state is (c, h), and it does not zero the padding."""
    h_0, c_0 = state
    module = rnn(w, x, reverse=reverse, keep_order=True)
    (c, h), outputs = module(x, initial_carry=(c_0, h_0), seq_lengths=lengths)
    return outputs, (h, c)


def both(w: Any, x: Any, state: Any, lengths: Any) -> Any:
    """Run ``flax.nnx.Bidirectional``."""
    forward, backward = (rnn(a, x) for a in w)
    h_0, c_0 = state
    carries: Any = tuple(zip(c_0, h_0, strict=True))
    module = nnx.Bidirectional(forward, backward, time_major=True, return_carry=True)
    carries, outputs = module(x, initial_carry=carries, seq_lengths=lengths)
    c, h = (jnp.stack(a) for a in zip(*carries, strict=True))
    return outputs, (h, c)


DIRECTION = layers.Direction(weights, run, takes_lengths=True, both=both)
implementation = partial(layers.implementation, DIRECTION)
