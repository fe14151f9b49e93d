"""``flax.linen.RNN`` with ``OptimizedLSTMCell``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen

from benchmarks.peers import layers


def weights(params: Mapping[str, Any]) -> Any:
    """Return a kernel (in, H) for each gate; the bias belongs to the kernels of h."""
    tree: dict[str, Any] = {}
    arrays = (params["weight_ih"], params["weight_hh"], layers.bias(params))
    for gate, w_i, w_h, b in zip("ifgo", *(jnp.split(a, 4) for a in arrays), strict=True):
        tree |= {f"i{gate}": {"kernel": w_i.T}, f"h{gate}": {"kernel": w_h.T, "bias": b}}
    return tree


def rnn(w: Any, **settings: Any) -> linen.RNN:
    """Return the module of one direction."""
    cell = linen.OptimizedLSTMCell(len(w["hi"]["kernel"]))
    return linen.RNN(cell, time_major=True, return_carry=True, **settings)


def run(w: Any, x: Any, state: Any, lengths: Any, reverse: bool) -> Any:
    """Run one direction. Flax's state is (c, h), and it does not zero the padding."""
    h_0, c_0 = state
    module = rnn(w, reverse=reverse, keep_order=True)
    (c, h), outputs = module.apply({"params": {"cell": w}}, x, initial_carry=(c_0, h_0), seq_lengths=lengths)
    return outputs, (h, c)


def both(w: Any, x: Any, state: Any, lengths: Any) -> Any:
    """Run ``flax.linen.Bidirectional``."""
    forward, backward = w
    h_0, c_0 = state
    carries: Any = tuple(zip(c_0, h_0, strict=True))
    module = linen.Bidirectional(rnn(forward), rnn(backward), time_major=True, return_carry=True)
    params = {"forward_rnn": {"cell": forward}, "backward_rnn": {"cell": backward}}
    result: Any = module.apply({"params": params}, x, initial_carry=carries, seq_lengths=lengths)
    carries, outputs = result
    c, h = (jnp.stack(a) for a in zip(*carries, strict=True))
    return outputs, (h, c)


DIRECTION = layers.Direction(weights, run, takes_lengths=True, both=both)
implementation = partial(layers.implementation, DIRECTION)
