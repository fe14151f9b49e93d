"""Sequences that arrive piece by piece, their state kept on the device between calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

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
from jaxlstm.kernels.cpu.memory import aligned_zeros

if TYPE_CHECKING:
    from jaxlstm.inference.runner import Runner


class Stream:
    """A batch of sequences of which each call brings the next steps; made by ``Runner.stream``.

    The buffers of (h, c) are donated from call to call, so a step allocates none. A Stream belongs to one
    caller at a time; others wait.

    Raises:
      ValueError: a bidirectional LSTM, whose reverse direction starts at an end that is not there yet.
    """

    def __init__(self, runner: Runner, batch: int) -> None:
        if runner.config.bidirectional:
            raise ValueError(
                "a bidirectional LSTM cannot run on a stream: its reverse direction starts at the last "
                "step, which has not come yet. Run whole sequences, or pieces of your own choice, with "
                "the Runner itself"
            )
        self.runner = runner
        self.batch = batch
        self._lock = threading.Lock()
        self._weights = runner._weights
        self._step = runner.step_program(batch)
        self._step_shape = (batch, runner.config.input_size)
        self._reset = _reset_program(runner, batch)
        self._h, self._c = self._zeros()

    def step(self, x: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """One time step, the shortest way there is.

        Args:
          x: (batch, input_size), of the Runner's dtype.
          active: bool (batch,); a sequence where it is false stands still, and its output is zero.

        Returns:
          (batch, output_size).
        """
        if type(x) is not np.ndarray or x.dtype != self.runner.dtype:
            x = host_array("x", x, self.runner.dtype)
        if x.shape != self._step_shape:
            raise ValueError(f"x must have shape {self._step_shape}, got {x.shape}")
        if active is None:
            compiled, extra, valid = self._step, (), self.batch
        else:
            rows = self._rows("active", active)
            compiled = self.runner.step_program(self.batch, masked=True)
            extra, valid = (rows.astype(np.int32),), int(rows.sum())
        with self._lock:
            y, self._h, self._c = compiled(self._weights, x, self._h, self._c, *extra)
        self.runner.count(valid, self.batch)
        return np.asarray(y)

    def __call__(self, chunk: Any, seq_lengths: Any = None) -> np.ndarray:
        """The next steps of every sequence.

        Args:
          chunk: (time, batch, input_size), (batch, time, input_size) with ``config.batch_first``, or
            (time, input_size) for a stream of one; any number of steps, of the Runner's dtype.
          seq_lengths: integers (batch,), from 0 to time: how many of the steps each sequence has. One
            with 0 stands still.

        Returns:
          Outputs with the axes of ``chunk`` and output_size features; zero behind each length.
        """
        config = self.runner.config
        x, unbatched = time_major_inputs(chunk, config, self.runner.dtype)
        if x.shape[1] != self.batch:
            raise ValueError(f"this stream has {self.batch} sequences, got a chunk of {x.shape[1]}")
        if len(x) == 1 and seq_lengths is None:
            outputs = self.step(np.ascontiguousarray(x[0]))[None]
        else:
            lengths = host_lengths(seq_lengths, self.batch, len(x), least=0)
            x = without_padding(x, lengths)
            with self._lock:  # over all pieces, between which another caller's would mix with them
                outputs = self._run(x, lengths)
        if unbatched:
            return outputs[:, 0]
        return outputs.swapaxes(0, 1) if config.batch_first else outputs

    def reset(self, mask: Any = None) -> None:
        """Set the state to zeros: of all sequences, or of those where ``mask``, bool (batch,), is true."""
        rows = np.ones(self.batch, bool) if mask is None else self._rows("mask", mask)
        with self._lock:
            self._h, self._c = self._reset(self._h, self._c, rows)

    @property
    def state(self) -> LSTMState:
        """(h, c) as copies on the host, which later calls leave alone; assign such a pair to go on there."""
        with self._lock:
            return LSTMState(np.array(self._h), np.array(self._c))  # type: ignore[arg-type]

    @state.setter
    def state(self, state: Any) -> None:
        h, c = host_state(state, self.runner.config, self.batch, self.runner.dtype)
        with self._lock:
            self._h, self._c = self._owned(h, c)

    def _rows(self, name: str, mask: Any) -> np.ndarray:
        rows = np.asarray(mask)
        if rows.shape != (self.batch,) or rows.dtype != bool:
            raise ValueError(
                f"{name} must be bool of shape ({self.batch},), got {rows.dtype} of {rows.shape}"
            )
        return rows

    def _run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        pieces = []
        longest = self.runner.length_buckets[-1]
        for start in range(0, len(x), longest):
            piece = x[start : start + longest]
            steps = bucket_of(len(piece), self.runner.length_buckets)
            padded = aligned_zeros((steps, *x.shape[1:]), x.dtype)
            padded[: len(piece)] = piece
            left = np.clip(lengths - start, 0, len(piece)).astype(np.int32)
            compiled = self.runner.batch_program(steps, self.batch, donate=True)
            y, self._h, self._c = compiled(self._weights, padded, self._h, self._c, left)
            self.runner.count(int(left.sum()), self.runner.computed_steps(left))
            pieces.append(np.asarray(y)[: len(piece)])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _zeros(self) -> tuple[jax.Array, jax.Array]:
        shapes = self.runner.config.state_shapes(self.batch)
        return self._owned(*(np.zeros(shape, self.runner.dtype) for shape in shapes))

    def _owned(self, h: np.ndarray, c: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Buffers that are the device's own: those that share memory with NumPy cannot be donated."""
        nothing = np.zeros(self.batch, bool)
        return self._reset(*jax.device_put((h, c), self.runner.device), nothing)


def _reset_program(runner: Runner, batch: int) -> Any:
    """(h, c, mask) -> (h, c) with zeros where the mask is true, compiled."""

    def reset(h: jax.Array, c: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        row = mask[:, None]
        return jnp.where(row, jnp.zeros_like(h), h), jnp.where(row, jnp.zeros_like(c), c)

    where = jax.sharding.SingleDeviceSharding(runner.device)
    shapes = [
        jax.ShapeDtypeStruct(shape, runner.dtype, sharding=where)
        for shape in runner.config.state_shapes(batch)
    ]
    mask = jax.ShapeDtypeStruct((batch,), np.bool_, sharding=where)
    return jax.jit(reset, donate_argnums=(0, 1)).lower(*shapes, mask).compile()
