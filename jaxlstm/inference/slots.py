"""Streams that come and go, as rows of one batch: thousands of callers, one program."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxlstm.inference.arguments import host_array

if TYPE_CHECKING:
    from jaxlstm.inference.runner import Runner


class Slots:
    """A :class:`jaxlstm.inference.Stream` whose rows are lent out, to callers in several threads if need be.

    >>> slots = Slots(runner, 4096)                      # doctest: +SKIP
    >>> slot = slots.open()                              # doctest: +SKIP
    >>> outputs = slots.step({slot: samples})[slot]      # doctest: +SKIP
    >>> slots.close(slot)                                # doctest: +SKIP

    Args:
      runner: from ``jaxlstm.inference.compile``.
      capacity: the most streams at one time; every step computes this many rows.
    """

    def __init__(self, runner: Runner, capacity: int) -> None:
        self.stream = runner.stream(capacity)
        self._free = list(range(capacity))[::-1]
        self._taken: set[int] = set()
        self._fresh: set[int] = set()  # opened since the last step, their state still to be cleared
        self._lock = threading.Lock()

    def open(self) -> int:
        """A free row, its state zeros; RuntimeError if there is none."""
        with self._lock:
            if not self._free:
                raise RuntimeError(
                    f"all {self.stream.batch} slots are taken; close one, or make Slots of more"
                )
            slot = self._free.pop()
            self._taken.add(slot)
            self._fresh.add(slot)
            return slot

    def close(self, slot: int) -> None:
        """Give a row back."""
        with self._lock:
            self._check(slot)
            self._taken.remove(slot)
            self._fresh.discard(slot)
            self._free.append(slot)

    def step(self, inputs: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """One time step of some of the open slots; the others stand still.

        Args:
          inputs: slot -> (input_size,), of the Runner's dtype; none at all is no step.

        Returns:
          slot -> (output_size,), for each slot that was given.
        """
        stream = self.stream
        x = np.zeros((stream.batch, stream.runner.config.input_size), stream.runner.dtype)
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
        runner = self.stream.runner
        if type(row) is not np.ndarray or row.dtype != runner.dtype:
            row = host_array(f"the input of slot {slot}", row, runner.dtype)
        if row.shape != (runner.config.input_size,):
            raise ValueError(
                f"the input of slot {slot} must have shape ({runner.config.input_size},), got {row.shape}"
            )
        return row

    def _check(self, slot: int) -> None:
        if slot not in self._taken:
            raise ValueError(f"slot {slot!r} is not open; Slots.open() gives one")
