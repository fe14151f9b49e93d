"""Streams that come and go, as rows of one batch: thousands of callers, one program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxlstm.inference.runner import Runner


class Slots:
    """A :class:`jaxlstm.inference.Stream` whose rows are lent out.

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
        self._fresh: set[int] = (
            set()
        )  # opened since the last step: their state is still to be cleared

    def open(self) -> int:
        """A free row, its state zeros; RuntimeError if there is none."""
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
        self._check(slot)
        self._taken.remove(slot)
        self._fresh.discard(slot)
        self._free.append(slot)

    def step(self, inputs: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """One time step of some of the open slots; the others stand still.

        Args:
          inputs: slot -> (input_size,), of the Runner's dtype.

        Returns:
          slot -> (output_size,), for each slot that was given.
        """
        stream = self.stream
        slots = list(inputs)
        for slot in slots:
            self._check(slot)
        rows = np.array([inputs[slot] for slot in slots])
        x = np.zeros((stream.batch, stream.runner.config.input_size), stream.runner.dtype)
        if rows.dtype != x.dtype or rows.shape != (len(slots), x.shape[1]):
            raise ValueError(
                f"each input must be {x.dtype} of shape ({x.shape[1]},), got {rows.dtype} of "
                f"{rows.shape[1:]}"
            )
        if self._fresh:
            mask = np.zeros(stream.batch, bool)
            mask[list(self._fresh)] = True
            stream.reset(mask)
            self._fresh.clear()
        x[slots] = rows
        active = np.zeros(stream.batch, bool)
        active[slots] = True
        outputs = stream.step(x, active)
        return {slot: outputs[slot] for slot in slots}

    def _check(self, slot: int) -> None:
        if slot not in self._taken:
            raise ValueError(f"slot {slot!r} is not open; Slots.open() gives one")
