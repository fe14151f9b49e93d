"""Slots: the rows of one stream, assigned to sequences that start and end at any time."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from jaxlstm.inference.host_arrays import host_array
from jaxlstm.inference.runner import Runner


class Slots:
    """A :class:`jaxlstm.inference.Stream` whose rows are assigned to callers. Threads may share one.

    >>> slots = jaxlstm.inference.Slots(runner, 4096)    # doctest: +SKIP
    >>> slot = slots.open()                              # doctest: +SKIP
    >>> outputs = slots.step({slot: samples})[slot]      # doctest: +SKIP
    >>> slots.close(slot)                                # doctest: +SKIP

    Args:
      runner: from ``jaxlstm.inference.compile``.
      capacity: the largest number of open slots. Every step computes this many rows.
    """

    def __init__(self, runner: Runner, capacity: int) -> None:
        self.stream = runner.stream(capacity)
        self._free = list(range(capacity))[::-1]
        self._open: set[int] = set()
        # Slots opened since the last step, whose state the next step clears.
        self._fresh: set[int] = set()
        self._lock = threading.Lock()

    def open(self) -> int:
        """Return a free slot with a state of zeros. Raise RuntimeError if all slots are open."""
        with self._lock:
            if not self._free:
                raise RuntimeError(
                    f"all {self.stream.batch} slots are open; close one, or create Slots with a larger "
                    "capacity"
                )
            slot = self._free.pop()
            self._open.add(slot)
            self._fresh.add(slot)
            return slot

    def close(self, slot: int) -> None:
        """Free a slot."""
        with self._lock:
            self._check(slot)
            self._open.remove(slot)
            self._fresh.discard(slot)
            self._free.append(slot)

    def step(self, inputs: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Run one time step of some open slots. The other slots keep their state.

        Args:
          inputs: slot -> (input_size,), of the Runner's dtype. An empty mapping runs no step.

        Returns:
          slot -> (output_size,), for each slot in ``inputs``.
        """
        stream = self.stream
        x = np.zeros((stream.batch, stream.config.input_size), stream.dtype)
        active = np.zeros(stream.batch, bool)
        with self._lock:
            if not inputs:
                return {}
            slots = list(inputs)
            x[slots] = np.array([self._row(slot, inputs[slot]) for slot in slots])
            active[slots] = True
            if self._fresh:
                mask = np.zeros(stream.batch, bool)
                mask[list(self._fresh)] = True
                stream.reset(mask)
                self._fresh.clear()
            outputs = stream.step(x, active)
        return {slot: outputs[slot] for slot in slots}

    def _row(self, slot: int, row: np.ndarray) -> np.ndarray:
        self._check(slot)
        features = self.stream.config.input_size
        if type(row) is not np.ndarray or row.dtype != self.stream.dtype:
            row = host_array(f"the input of slot {slot}", row, self.stream.dtype)
        if row.shape != (features,):
            raise ValueError(f"the input of slot {slot} must have shape ({features},), got {row.shape}")
        return row

    def _check(self, slot: int) -> None:
        if slot not in self._open:
            raise ValueError(f"slot {slot!r} is not open; get one from Slots.open()")
