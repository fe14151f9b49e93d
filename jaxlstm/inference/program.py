"""The program that a Runner compiles: ``lstm`` in chunks of time, until the longest sequence ends.

Time is walked in chunks of :data:`CHUNK` steps by a loop whose count is decided at run time. Three things
follow. A bucket that is longer than the longest sequence costs no time. The input projection of one chunk
stays in the cache, where that of a whole long sequence does not. And the arithmetic of a chunk, fenced off
from what surrounds it, is compiled from the same shapes in every length bucket, so that a sequence gets the
same bits in each of them: a compiler that sees other shapes may fuse and round otherwise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.params import Params, direction_params
from jaxlstm.precision import Precision
from jaxlstm.stack import lstm

CHUNK = 16
"""Time steps of one chunk; see benchmarks/inference.py for others."""


def time_major(config: LSTMConfig) -> LSTMConfig:
    """The same LSTM over (time, batch, feature), without what only training needs."""
    if isinstance(config, LSTMCellConfig):
        return config
    return dataclasses.replace(config, batch_first=False, dropout=0.0)


def forward(
    params: Params,
    inputs: jax.Array,
    h_0: jax.Array,
    c_0: jax.Array,
    lengths: jax.Array,
    *,
    config: LSTMConfig,
    precision: Precision,
    backend: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A padded batch of sequences, each of its own length.

    Args:
      params: under torch's names.
      inputs: (time, batch, input_size), time a multiple of CHUNK.
      h_0: (layers * directions, batch, h_size).
      c_0: (layers * directions, batch, hidden_size).
      lengths: int32 (batch,), from 0 to time; 0 leaves the state of a row as it was.
      config: the LSTM, time-major.
      precision: of the matrix products.
      backend: of ``jaxlstm.lstm``.

    Returns:
      Outputs (time, batch, output_size), zero behind each length, and h_n and c_n.
    """

    def run(params: Params, config: LSTMConfig, *arrays: Any) -> tuple:
        return _in_chunks(params, *arrays, config=config, precision=precision, backend=backend)

    if not config.bidirectional:
        return run(params, config, inputs, h_0, c_0, lengths)
    x, h_n, c_n = inputs, [], []
    for layer in range(config.num_layers):
        one = LSTMConfig(
            config.layer_input_size(layer),
            config.hidden_size,
            bias=config.bias,
            proj_size=config.proj_size,
        )
        outputs = []
        for direction in (0, 1):
            slot = 2 * layer + direction
            weights = {
                f"{name}_l0": leaf
                for name, leaf in direction_params(params, config, layer, direction).items()
            }
            arrays = (_reversed(x, lengths) if direction else x, h_0[slot][None], c_0[slot][None])
            y, h, c = run(weights, one, *arrays, lengths)
            outputs.append(_reversed(y, lengths) if direction else y)
            h_n.append(h)
            c_n.append(c)
        x = jnp.concatenate(outputs, axis=-1)
    return x, jnp.concatenate(h_n), jnp.concatenate(c_n)


def step(
    params: Params,
    inputs: jax.Array,
    h: jax.Array,
    c: jax.Array,
    active: jax.Array | None = None,
    *,
    config: LSTMConfig,
    precision: Precision,
    backend: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One time step: (batch, input_size) to (batch, output_size), and h and c.

    Where ``active``, int32 (batch,), is 0 rather than 1, the output is zero and the state stands still.
    ``backend="auto"`` is the plain scan here: a kernel's preparations cost more than one step saves.
    """
    backend = "scan" if backend == "auto" else backend
    outputs, state = lstm(
        params,
        inputs[None],
        (h, c),
        config=config,
        seq_lengths=active,
        precision=precision,
        backend=backend,
    )
    return outputs[0], state.h, state.c


def _in_chunks(
    params: Params,
    inputs: jax.Array,
    h_0: jax.Array,
    c_0: jax.Array,
    lengths: jax.Array,
    *,
    config: LSTMConfig,
    precision: Precision,
    backend: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """:func:`forward` in one direction."""
    params = lax.optimization_barrier(params)
    longest = jnp.max(lengths)

    def chunk(carry: tuple) -> tuple:
        start, h, c, outputs = carry
        x = lax.dynamic_slice_in_dim(inputs, start, CHUNK)
        left = jnp.clip(lengths - start, 0, CHUNK)
        x, h, c, left = lax.optimization_barrier((x, h, c, left))
        y, state = lstm(
            params,
            x,
            (h, c),
            config=config,
            seq_lengths=left,
            precision=precision,
            backend=backend,
        )
        y, h, c = lax.optimization_barrier((y, state.h, state.c))
        return start + CHUNK, h, c, lax.dynamic_update_slice_in_dim(outputs, y, start, 0)

    outputs = jnp.zeros((*inputs.shape[:2], config.output_size), inputs.dtype)
    _, h_n, c_n, outputs = lax.while_loop(
        lambda carry: carry[0] < longest, chunk, (jnp.int32(0), h_0, c_0, outputs)
    )
    return outputs, h_n, c_n


def _reversed(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Each sequence backwards within its own length; the padding stays where it is."""
    t = jnp.arange(x.shape[0])[:, None]
    source = jnp.where(t < lengths, lengths - 1 - t, t)
    return jnp.take_along_axis(x, source[:, :, None], axis=0)
