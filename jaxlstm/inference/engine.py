"""The settings, results, counts and caches of LSTMs and programs on a device."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxlstm.inference.host_arrays import one_device
from jaxlstm.kernels.cpu.stack import available_threads
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.config import LSTMConfig, positive_int
from jaxlstm.layer.precision import Precision, require_dtype

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


class Recent(OrderedDict[Any, Any]):
    """The values that were used last, by key; at most ``most``. Threads may share it."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self._most, self._making = most, threading.Lock()

    def get_or_make(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the value of a key. One thread makes it, while others get the values that are there."""
        try:
            self.move_to_end(key)
            return self[key]
        except KeyError:
            pass
        with self._making:
            if key not in self:
                while len(self) >= self._most:
                    self.popitem(last=False)
                self[key] = make()
            return self[key]


@dataclass
class RunnerSettings:
    """The arguments of :func:`jaxlstm.inference.compile` for an LSTM except its params, and its CPU threads.

    Raises:
      TypeError, ValueError: an argument has the wrong type or value.
    """

    config: LSTMConfig
    max_length: int
    max_batch: int
    dtype: Any = None
    precision: Precision = precision_.DEFAULT
    backend: str = "auto"
    device: Any = None
    threads: int = field(default_factory=available_threads, init=False)

    def __post_init__(self) -> None:
        precision_.resolve(self.precision)  # also for the native kernel, which ignores it
        self.dtype = require_dtype("dtype", self.dtype)
        self.max_length = positive_int("max_length", self.max_length)
        self.max_batch = positive_int("max_batch", self.max_batch)
        self.device = one_device(self.device)
