"""The program that a Runner compiles: ``lstm`` in chunks of time, on ever fewer rows, till all have ended.

Time is walked in chunks of :data:`CHUNK` steps, and of :data:`LONG_CHUNK` far from the end with a kernel
that was asked for by name, by loops whose count is decided at run time. Three things follow. A bucket that is
longer than the longest sequence costs no time. The input projection of one chunk stays in the cache, where
that of a whole long sequence does not. And the arithmetic of a chunk, fenced off from what surrounds it, is
compiled from the same shapes in every length bucket, so that a sequence gets the same bits in each of them:
a compiler that sees other shapes may fuse and round otherwise.

Rows that have ended are not computed for long: once the second half of the rows has, the first goes on alone,
and then its half. That saves most where sequences come sorted, the longest first.
"""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.params import Params, direction_params
from jaxlstm.precision import Precision
from jaxlstm.functional import lstm

CHUNK = 16
"""Time steps of one chunk, hence what a sequence's end is rounded up to."""
LONG_CHUNK = 128
"""Time steps of a chunk far from the end, with a kernel: it prepares the weights anew for each chunk."""


def row_counts(batch: int) -> tuple[int, ...]:
    """How many rows a batch is computed with, in turn: all, half, a quarter.

    Never one of several, which XLA would multiply by another routine.

    >>> row_counts(32), row_counts(6), row_counts(1)
    ((32, 16, 8), (6, 3, 2), (1,))
    """
    fewer = (max(2, -(-batch // 2)), max(2, -(-batch // 4)))
    return (batch, *sorted({rows for rows in fewer if rows < batch}, reverse=True))


def callers(count: int) -> contextlib.AbstractContextManager[None]:
    """While this lasts, ``count`` threads run programs, which is no matter to XLA."""
    del count
    return contextlib.nullcontext()


def computed_steps(lengths: np.ndarray) -> int:
    """Time steps that a program computes for rows of these lengths, padding included."""
    counts = row_counts(len(lengths))
    start = total = 0
    for rows, fewer in zip(counts, (*counts[1:], 0), strict=True):
        chunks = max(0, -(-(int(lengths[fewer:].max()) - start) // CHUNK))
        start += chunks * CHUNK
        total += rows * chunks * CHUNK
    return total


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
    # "auto" is the plain scan wherever this program is taken
    kernel = backend not in ("auto", "scan")

    def chunk(size: int, carry: tuple) -> tuple:
        start, h, c, outputs = carry
        rows = h.shape[1]
        x = lax.dynamic_slice_in_dim(inputs[:, :rows], start, size)
        left = jnp.clip(lengths[:rows] - start, 0, size)
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
        return start + size, h, c, lax.dynamic_update_slice(outputs, y, (start, 0, 0))

    start = jnp.int32(0)
    outputs = jnp.zeros((*inputs.shape[:2], config.output_size), inputs.dtype)
    h_n, c_n = h_0, c_0
    counts = row_counts(inputs.shape[1])
    for rows, fewer in zip(counts, (*counts[1:], 0), strict=True):
        end = jnp.max(lengths[fewer:])  # from here on all rows but the first `fewer` stand still
        carry = start, h_n[:, :rows], c_n[:, :rows], outputs
        if kernel and len(inputs) >= LONG_CHUNK:
            whole = end - LONG_CHUNK
            carry = lax.while_loop(
                lambda carry, whole=whole: carry[0] <= whole, partial(chunk, LONG_CHUNK), carry
            )
        carry = lax.while_loop(lambda carry, end=end: carry[0] < end, partial(chunk, CHUNK), carry)
        start, h, c, outputs = carry
        h_n, c_n = h_n.at[:, :rows].set(h), c_n.at[:, :rows].set(c)
    return outputs, h_n, c_n


def _reversed(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Each sequence backwards within its own length; the padding stays where it is."""
    t = jnp.arange(x.shape[0])[:, None]
    source = jnp.where(t < lengths, lengths - 1 - t, t)
    return jnp.take_along_axis(x, source[:, :, None], axis=0)
