"""``equinox.nn.LSTMCell`` in a ``jax.lax.scan``, as in Equinox's documentation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax

from benchmarks.peers import layers


def weights(params: Mapping[str, Any]) -> Any:
    """Return torch's two matrices and the single bias."""
    return params["weight_ih"], params["weight_hh"], layers.bias(params)


def run(w: Any, x: Any, state: Any, lengths: Any, reverse: bool) -> Any:
    """Scan over time; the cell takes one row, so it is vmapped over the batch."""
    assert lengths is None
    hidden_size = w[1].shape[1]
    cell = eqx.nn.LSTMCell(x.shape[-1], hidden_size, dtype=x.dtype, key=jax.random.key(0))
    cell = eqx.tree_at(lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias), cell, w)

    def step(state: Any, x: Any) -> Any:
        h, c = jax.vmap(cell)(x, state)
        return (h, c), h

    state, outputs = jax.lax.scan(step, state, x, reverse=reverse)
    return outputs, state


DIRECTION = layers.Direction(weights, run, takes_lengths=False)
implementation = partial(layers.implementation, DIRECTION)
