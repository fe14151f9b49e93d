"""Streams: sequences that arrive in chunks, with their state kept between calls."""

import threading
from typing import Any

import numpy as np

from jaxlstm.inference.compiled import CompiledEngine
from jaxlstm.inference.host_arrays import checked_array, host_lengths, host_state, time_major_inputs
from jaxlstm.inference.native import NativeEngine
from jaxlstm.layer.cell import LSTMState

Engine = NativeEngine | CompiledEngine
SPIN = 1e-3
"""Seconds that the helper threads of a stream spin after a call by default."""


class Stream:
    """A batch of sequences whose next steps arrive with each call; made by ``Runner.stream``.

    A step allocates no state: the buffers of (h, c) are reused from call to call. Calls from several threads
    run one after another.

    Raises:
      ValueError: the LSTM is bidirectional, or ``spin`` is negative or NaN.
    """

    def __init__(self, engine: Engine, batch: int, spin: float = SPIN) -> None:
        config = engine.settings.config
        if config.bidirectional:
            raise ValueError(
                "a bidirectional LSTM cannot run on a stream: its reverse direction starts at the last "
                "step, which has not arrived yet. Call the Runner on whole sequences instead"
            )
        if not 0 <= spin < float("inf"):
            raise ValueError(f"spin must be a number of seconds, at least 0, got {spin!r}")
        self.batch = batch
        self.config = config
        self.dtype = engine.settings.dtype
        self._engine = engine
        self._lock = threading.Lock()
        self._step_shape = (batch, config.input_size)
        self._state = engine.stream_state(batch, spin)

    def __repr__(self) -> str:
        return f"Stream({self.config}, batch={self.batch}, dtype={self.dtype})"

    def step(self, x: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Run one time step, with the least overhead.

        Args:
          x: (batch, input_size), of the Runner's dtype.
          active: bool (batch,). Sequences where it is False keep their state and output zeros.

        Returns:
          Outputs (batch, output_size).
        """
        if type(x) is not np.ndarray or x.dtype != self.dtype:
            x = np.asarray(checked_array("x", x, self.dtype))
        if x.shape != self._step_shape:
            raise ValueError(f"x must have shape {self._step_shape}, got {x.shape}")
        rows = None if active is None else self._mask("active", active)
        with self._lock:
            y = self._state.step(x, rows)
        self._engine.work.add_call(self.batch if rows is None else int(rows.sum()), self.batch)
        return y

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
        x = np.asarray(x)
        if x.shape[1] != self.batch:
            raise ValueError(f"chunk must have the {self.batch} sequences of this stream, got {x.shape[1]}")
        if len(x) == 1 and seq_lengths is None:
            outputs = self.step(np.ascontiguousarray(x[0]))[None]
        else:
            lengths = host_lengths(seq_lengths, self.batch, len(x), minimum=0)
            # Hold the lock over all pieces, so that another caller cannot advance the state between them.
            with self._lock:
                outputs = self._in_pieces(x, lengths)
        if unbatched:
            return outputs[:, 0]
        return outputs.swapaxes(0, 1) if self.config.batch_first else outputs

    def reset(self, mask: Any = None) -> None:
        """Set the state to zeros, of all sequences or of those where ``mask``, bool (batch,), is True."""
        rows = np.ones(self.batch, bool) if mask is None else self._mask("mask", mask)
        with self._lock:
            self._state.reset(rows)

    @property
    def state(self) -> LSTMState:
        """The state (h, c), copied to the host. Assign a pair to continue from there."""
        with self._lock:
            return LSTMState(*self._state.get())  # type: ignore[arg-type]

    @state.setter
    def state(self, state: Any) -> None:
        h, c = host_state(state, self.config, self.batch, self.dtype)
        with self._lock:
            self._state.set(h, c)

    def _mask(self, name: str, mask: Any) -> np.ndarray:
        rows = np.asarray(mask)
        if rows.shape != (self.batch,) or rows.dtype != bool:
            raise ValueError(
                f"{name} must be a bool array of shape ({self.batch},), got {rows.dtype} of shape "
                f"{rows.shape}"
            )
        return rows

    def _in_pieces(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        engine, longest = self._engine, self._engine.settings.max_length
        pieces = []
        for start in range(0, len(x), longest):
            piece = x[start : start + longest]
            valid = np.clip(lengths - start, 0, len(piece)).astype(np.int32)
            pieces.append(self._state.run(piece, valid))
            engine.work.add_call(int(valid.sum()), engine.computed_steps(valid))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
