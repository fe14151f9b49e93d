"""What Runner, Stream and ``map`` need of an engine: an LSTM on a device that runs batches of sequences.

:class:`jaxlstm.inference.native.NativeEngine` runs the native CPU kernel,
:class:`jaxlstm.inference.compiled.CompiledEngine` everything else.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxlstm.layer.config import LSTMConfig

Results = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Outputs, h and c."""


@dataclass(frozen=True)
class Stats:
    """Counts of a Runner's work so far.

    Args:
      compilations: executables compiled; 0 on the native kernel.
      calls: batches and steps run by single calls, ``map`` and streams together.
      valid_steps: time steps of the given sequences, summed over the sequences.
      computed_steps: time steps computed for them, padding included.
    """

    compilations: int = 0
    calls: int = 0
    valid_steps: int = 0
    computed_steps: int = 0

    @property
    def padding_waste(self) -> float:
        """Share of the computed time steps that were padding, from 0 to 1."""
        return 1 - self.valid_steps / self.computed_steps if self.computed_steps else 0.0


class WorkCounter:
    """The counts of :class:`Stats`, which threads may share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compilations = self._calls = self._valid_steps = self._computed_steps = 0

    def stats(self) -> Stats:
        """Return the counts so far."""
        with self._lock:
            return Stats(self._compilations, self._calls, self._valid_steps, self._computed_steps)

    def add_call(self, valid_steps: int, computed_steps: int) -> None:
        """Add one call."""
        with self._lock:
            self._calls += 1
            self._valid_steps += valid_steps
            self._computed_steps += computed_steps

    def add_compilation(self) -> None:
        """Add one compiled executable."""
        with self._lock:
            self._compilations += 1


@dataclass(frozen=True)
class RunnerSettings:
    """The arguments of :func:`jaxlstm.inference.compile` that every engine has, and its CPU threads."""

    config: LSTMConfig
    max_length: int
    max_batch: int
    dtype: np.dtype
    device: Any
    threads: int


class StreamState(Protocol):
    """The state (h, c) of the sequences of a stream, and the steps that advance it."""

    def step(self, x: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """Run one step of x (batch, input_size), of the rows where ``active`` is True."""
        ...

    def run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Run up to ``max_length`` steps of x (time, batch, input_size)."""
        ...

    def reset(self, rows: np.ndarray) -> None:
        """Set some rows to zeros; ``rows`` is bool (batch,)."""
        ...

    def get(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of h and c, in the Runner's dtype."""
        ...

    def set(self, h: np.ndarray, c: np.ndarray) -> None:
        """Copy (h, c) into the state."""
        ...


class Engine(Protocol):
    """An LSTM on one device. Threads may share an Engine.

    Attributes:
      settings: the limits of its calls.
      work: counts every call.
      needs_zero_padding: whether inputs must be zero after the end of each sequence.
    """

    settings: RunnerSettings
    work: WorkCounter
    needs_zero_padding: bool

    def run_batch(
        self,
        x: np.ndarray | jax.Array,
        lengths: np.ndarray | None,
        state: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Results:
        """Run a batch of at most ``max_batch`` sequences of at most ``max_length`` steps.

        Args:
          x: (time, batch, input_size), with zeros after each length if the engine needs them.
          lengths: int32 (batch,), or None if every sequence has ``time`` steps.
          state: (h, c), or None for zeros.

        Returns:
          Outputs, h and c of the batch.
        """
        ...

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps that a batch of these lengths computes, padding included."""
        ...

    def stream_state(self, batch: int, spin: float) -> StreamState:
        """Return zeros for a stream, whose helper threads spin ``spin`` seconds after a call."""
        ...

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which ``count`` threads run batches at the same time."""
        ...

    def warmup(self, *, progress: bool) -> None:
        """Compile every executable of single calls and ``map``, with a progress bar on a terminal."""
        ...
