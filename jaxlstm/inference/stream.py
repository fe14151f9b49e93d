"""Streams: sequences that arrive in chunks, with their state on the device between calls."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cell import LSTMState
from jaxlstm.inference.arguments import (
    host_array,
    host_lengths,
    host_state,
    time_major_inputs,
    without_padding,
)
from jaxlstm.inference.buckets import bucket_of
from jaxlstm.inference.engine import Engine
from jaxlstm.kernels.cpu.memory import aligned_zeros


class Stream:
    """A batch of sequences whose next steps arrive with each call; made by ``Runner.stream``.

    The buffers of (h, c) are donated from call to call, so a step allocates no state. Calls from several
    threads run one after another.

    Raises:
      ValueError: the LSTM is bidirectional.
    """

    def __init__(self, engine: Engine, batch: int) -> None:
        if engine.config.bidirectional:
            raise ValueError(
                "a bidirectional LSTM cannot run on a stream: its reverse direction starts at the last "
                "step, which has not arrived yet. Call the Runner on whole sequences instead"
            )
        self.batch = batch
        self.config = engine.config
        self.dtype = engine.dtype
        self._engine = engine
        self._lock = threading.Lock()
        self._step = engine.step_executable(batch)
        self._step_shape = (batch, engine.config.input_size)
        self._reset = _compile_reset(engine, batch)
        self._h, self._c = self._zeros()

    def step(self, x: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Run one time step, with the least overhead.

        Args:
          x: (batch, input_size), of the Runner's dtype.
          active: bool (batch,). Sequences where it is False keep their state and output zeros.

        Returns:
          Outputs (batch, output_size).
        """
        if type(x) is not np.ndarray or x.dtype != self.dtype:
            x = host_array("x", x, self.dtype)
        if x.shape != self._step_shape:
            raise ValueError(f"x must have shape {self._step_shape}, got {x.shape}")
        if active is None:
            executable, extra, valid = self._step, (), self.batch
        else:
            rows = self._mask("active", active)
            executable = self._engine.step_executable(self.batch, masked=True)
            extra, valid = (rows.astype(np.int32),), int(rows.sum())
        with self._lock:
            y, self._h, self._c = executable(self._engine.weights, x, self._h, self._c, *extra)
        self._engine.count(valid, self.batch)
        return np.asarray(y)

    def __call__(self, chunk: Any, seq_lengths: Any = None) -> np.ndarray:
        """Run the next steps of every sequence.

        Args:
          chunk: (time, batch, input_size), (batch, time, input_size) with ``config.batch_first``, or
            (time, input_size) for a stream of one sequence. Any number of steps, of the Runner's dtype.
          seq_lengths: integers (batch,), from 0 to time: the valid steps of each sequence. A sequence of
            length 0 keeps its state.

        Returns:
          Outputs with the axes of ``chunk`` and output_size features, zero after each length.
        """
        x, unbatched = time_major_inputs(chunk, self.config, self.dtype)
        if x.shape[1] != self.batch:
            raise ValueError(f"chunk must have the {self.batch} sequences of this stream, got {x.shape[1]}")
        if len(x) == 1 and seq_lengths is None:
            outputs = self.step(np.ascontiguousarray(x[0]))[None]
        else:
            lengths = host_lengths(seq_lengths, self.batch, len(x), minimum=0)
            x = without_padding(x, lengths)
            # Hold the lock over all pieces, so that another caller cannot advance the state between them.
            with self._lock:
                outputs = self._run(x, lengths)
        if unbatched:
            return outputs[:, 0]
        return outputs.swapaxes(0, 1) if self.config.batch_first else outputs

    def reset(self, mask: Any = None) -> None:
        """Set the state to zeros, of all sequences or of those where ``mask``, bool (batch,), is True."""
        rows = np.ones(self.batch, bool) if mask is None else self._mask("mask", mask)
        with self._lock:
            self._h, self._c = self._reset(self._h, self._c, rows)

    @property
    def state(self) -> LSTMState:
        """The state (h, c), copied to the host. Assign a pair to continue from there."""
        with self._lock:
            return LSTMState(np.array(self._h), np.array(self._c))  # type: ignore[arg-type]

    @state.setter
    def state(self, state: Any) -> None:
        h, c = host_state(state, self.config, self.batch, self.dtype)
        with self._lock:
            self._h, self._c = self._on_device(h, c)

    def _mask(self, name: str, mask: Any) -> np.ndarray:
        rows = np.asarray(mask)
        if rows.shape != (self.batch,) or rows.dtype != bool:
            raise ValueError(
                f"{name} must be a bool array of shape ({self.batch},), got {rows.dtype} of shape "
                f"{rows.shape}"
            )
        return rows

    def _run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        engine = self._engine
        pieces = []
        longest = engine.length_buckets[-1]
        for start in range(0, len(x), longest):
            piece = x[start : start + longest]
            steps = bucket_of(len(piece), engine.length_buckets)
            padded = aligned_zeros((steps, *x.shape[1:]), x.dtype)
            padded[: len(piece)] = piece
            left = np.clip(lengths - start, 0, len(piece)).astype(np.int32)
            executable = engine.batch_executable(steps, self.batch, donate=True)
            y, self._h, self._c = executable(engine.weights, padded, self._h, self._c, left)
            engine.count(int(left.sum()), engine.computed_steps(left))
            pieces.append(np.asarray(y)[: len(piece)])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _zeros(self) -> tuple[jax.Array, jax.Array]:
        shapes = self.config.state_shapes(self.batch)
        return self._on_device(*(np.zeros(shape, self.dtype) for shape in shapes))

    def _on_device(self, h: np.ndarray, c: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Copy (h, c) to buffers that can be donated, unlike buffers that share memory with NumPy."""
        nothing = np.zeros(self.batch, bool)
        return self._reset(*jax.device_put((h, c), self._engine.device), nothing)


def _compile_reset(engine: Engine, batch: int) -> Any:
    """Compile ``(h, c, mask) -> (h, c)``, which sets the rows of the mask to zeros."""

    def reset(h: jax.Array, c: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        row = mask[:, None]
        return jnp.where(row, jnp.zeros_like(h), h), jnp.where(row, jnp.zeros_like(c), c)

    shapes = engine.state_shapes(batch)
    mask = jax.ShapeDtypeStruct((batch,), np.bool_, sharding=shapes[0].sharding)
    return jax.jit(reset, donate_argnums=(0, 1)).lower(*shapes, mask).compile()
