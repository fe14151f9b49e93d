"""``flax.nnx.RNN`` over flax's fastest cell."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from flax import nnx

from jaxlstm.bench.peers import layers


def weights(params: Mapping[str, Any]) -> Any:
    """Kernels (in, 4H) and the bias."""
    return {"i": params["weight_ih"].T, "h": params["weight_hh"].T, "bias": layers.bias(params)}


def run(w: Any, x: Any, state: Any, lengths: Any, reverse: bool) -> Any:
    """Flax has its state as (c, h), and leaves numbers behind the ends."""
    hidden_size = len(w["h"])
    cell = nnx.OptimizedLSTMCell(x.shape[-1], hidden_size, param_dtype=x.dtype, rngs=nnx.Rngs(0))
    cell.dense_i.kernel = nnx.Param(w["i"])
    cell.dense_h.kernel = nnx.Param(w["h"])
    cell.dense_h.bias = nnx.Param(w["bias"])
    rnn = nnx.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)
    h_0, c_0 = state
    (c, h), outputs = rnn(x, initial_carry=(c_0, h_0), seq_lengths=lengths)
    return outputs, (h, c)


DIRECTION = layers.Direction(weights, run, takes_lengths=True)
side = partial(layers.side, DIRECTION)
