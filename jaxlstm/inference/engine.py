"""The engine below Runner, Stream and ``map``: weights on a device, and batches of sequences run on them.

:class:`jaxlstm.inference.native_engine.NativeEngine` runs the native CPU kernel,
:class:`jaxlstm.inference.compiled_engine.CompiledEngine` everything else.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxlstm.kernels.cpu.stack import available_threads
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


class Engine(abc.ABC):
    """An LSTM on one device. Threads may share an Engine.

    Attributes:
      threads: CPU threads that the engine may use.
      needs_zero_padding: whether inputs must be zero after the end of each sequence.
    """

    needs_zero_padding = True

    def __init__(
        self, config: LSTMConfig, *, max_length: int, max_batch: int, dtype: np.dtype, device: Any
    ) -> None:
        self.config, self.dtype, self.device = config, dtype, device
        self.max_length, self.max_batch = max_length, max_batch
        self.threads = available_threads()
        self._counting = threading.Lock()
        self._compilations = self._calls = self._valid_steps = self._computed_steps = 0

    def stats(self) -> Stats:
        """Return the counts of compilations, calls and time steps so far."""
        with self._counting:
            return Stats(self._compilations, self._calls, self._valid_steps, self._computed_steps)

    def count(self, valid_steps: int, computed_steps: int) -> None:
        """Add one call to the statistics."""
        with self._counting:
            self._calls += 1
            self._valid_steps += valid_steps
            self._computed_steps += computed_steps

    @abc.abstractmethod
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

    @abc.abstractmethod
    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps that a batch of these lengths computes, padding included."""

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which ``count`` threads run batches at the same time."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def warmup(self, *, progress: bool) -> None:
        """Compile every executable of single calls and ``map``."""
