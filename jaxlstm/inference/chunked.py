"""The forward pass in compiled programs: ``jaxlstm.lstm`` on chunks of time, over a shrinking batch.

Loops whose trip count is decided at run time walk through time in chunks of :data:`CHUNK` steps. This has
three effects:

- Steps after the end of the longest sequence cost no time, however long the bucket.
- The input projection of one chunk fits in the cache. The projection of a whole long sequence may not.
- Each chunk is compiled from the same shapes in every length bucket, and barriers keep XLA from fusing it
  with its surroundings. A sequence therefore gets the same bits in every length bucket.

Rows that have ended soon stop costing time: once the second half of the rows has ended, only the first half
continues, and then its first half. This saves most if sequences are sorted, the longest first.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlstm.functional import lstm
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import Params, direction_params
from jaxlstm.layer.precision import Precision
from jaxlstm.layer.stack import by_direction, over_layers

Results = tuple[jax.Array, jax.Array, jax.Array]
"""Outputs, h and c."""

CHUNK = 16
"""Time steps of a chunk. Computation continues to the end of the chunk in which a sequence ends."""


def row_counts(batch: int) -> tuple[int, ...]:
    """Return the numbers of rows that are computed in turn: all, half, a quarter.

    The number never shrinks to one, because XLA multiplies a single row by another routine.

    >>> row_counts(32), row_counts(6), row_counts(1)
    ((32, 16, 8), (6, 3, 2), (1,))
    """
    fewer = (max(2, -(-batch // 2)), max(2, -(-batch // 4)))
    return (batch, *sorted({rows for rows in fewer if rows < batch}, reverse=True))


@dataclass(frozen=True)
class ChunkedForward:
    """The forward pass of one time-major LSTM for every platform and backend.

    ``batch`` and ``step`` are traced and compiled for each shape.
    """

    config: LSTMConfig
    precision: Precision
    backend: str

    def batch(
        self, weights: Any, inputs: jax.Array, h: jax.Array, c: jax.Array, lengths: jax.Array
    ) -> Results:
        """Run a padded batch of sequences.

        Args:
          inputs: (time, batch, input_size); time is a length bucket. Padding may hold any numbers.
          h: initial h, (layers * directions, batch, h_size).
          c: initial c, (layers * directions, batch, hidden_size).
          lengths: int32 (batch,), from 0 to time. A row of length 0 keeps its state.

        Returns:
          Outputs (time, batch, output_size), zero after each length, and the final h and c.
        """
        config = self.config
        if not config.bidirectional:
            return self._in_chunks(weights, config, inputs, h, c, lengths)

        def run_direction(
            layer: int, direction: int, x: jax.Array, state: LSTMState
        ) -> tuple[jax.Array, LSTMState]:
            size = config.layer_input_size(layer)
            layer_config = dataclasses.replace(config, input_size=size, num_layers=1, bidirectional=False)
            params = direction_params(weights, config, layer, direction)
            params = {f"{name}_l0": leaf for name, leaf in params.items()}
            x = _reversed(x, lengths) if direction else x
            y, h, c = self._in_chunks(params, layer_config, x, state.h[None], state.c[None], lengths)
            return _reversed(y, lengths) if direction else y, LSTMState(h[0], c[0])

        outputs, final = over_layers(config, inputs, LSTMState(h, c), by_direction(run_direction))
        return outputs, final.h, final.c

    def step(
        self, weights: Any, inputs: jax.Array, h: jax.Array, c: jax.Array, active: jax.Array | None = None
    ) -> Results:
        """Run one time step, from (batch, input_size) to (batch, output_size), h and c.

        ``active``, int32 (batch,), is 1 for rows that advance. Other rows keep their state and output zeros.
        """
        outputs, state = lstm(
            weights,
            inputs[None],
            (h, c),
            config=self.config,
            seq_lengths=active,
            precision=self.precision,
            # Preparing the weights for a kernel costs more than one step saves.
            backend="scan" if self.backend == "auto" else self.backend,
        )
        return outputs[0], state.h, state.c

    @staticmethod
    def computed_steps(lengths: np.ndarray) -> int:
        """Return the number of time steps that ``batch`` computes for these lengths, padding included."""
        counts = row_counts(len(lengths))
        start = total = 0
        for rows, fewer in zip(counts, (*counts[1:], 0), strict=True):
            chunks = max(0, -(-(int(lengths[fewer:].max()) - start) // CHUNK))
            start += chunks * CHUNK
            total += rows * chunks * CHUNK
        return total

    def _in_chunks(
        self,
        params: Params,
        config: LSTMConfig,
        inputs: jax.Array,
        h_0: jax.Array,
        c_0: jax.Array,
        lengths: jax.Array,
    ) -> Results:
        """Run a stack of layers in one direction."""
        params = lax.optimization_barrier(params)
        time = len(inputs)
        inputs = jnp.pad(inputs, ((0, -time % CHUNK), (0, 0), (0, 0)))

        def chunk(carry: tuple) -> tuple:
            start, h, c, outputs = carry
            rows = h.shape[1]
            x = lax.dynamic_slice_in_dim(inputs[:, :rows], start, CHUNK)
            valid = jnp.clip(lengths[:rows] - start, 0, CHUNK)
            x, h, c, valid = lax.optimization_barrier((x, h, c, valid))
            y, state = lstm(
                params,
                x,
                (h, c),
                config=config,
                seq_lengths=valid,
                precision=self.precision,
                backend=self.backend,
            )
            y, h, c = lax.optimization_barrier((y, state.h, state.c))
            return start + CHUNK, h, c, lax.dynamic_update_slice_in_dim(outputs, y, start, axis=0)

        start = jnp.int32(0)
        outputs = jnp.zeros((*inputs.shape[:2], config.output_size), inputs.dtype)
        h_n, c_n = h_0, c_0
        counts = row_counts(inputs.shape[1])
        for rows, fewer in zip(counts, (*counts[1:], 0), strict=True):
            # After `end`, only the first `fewer` rows have steps left.
            end = jnp.max(lengths[fewer:])
            carry = start, h_n[:, :rows], c_n[:, :rows], outputs
            carry = lax.while_loop(lambda carry, end=end: carry[0] < end, chunk, carry)
            start, h, c, outputs = carry
            h_n, c_n = h_n.at[:, :rows].set(h), c_n.at[:, :rows].set(c)
        return outputs[:time], h_n, c_n


def _reversed(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Reverse each sequence within its length and leave the padding in place."""
    t = jnp.arange(x.shape[0])[:, None]
    source = jnp.where(t < lengths, lengths - 1 - t, t)
    return jnp.take_along_axis(x, source[:, :, None], axis=0)
