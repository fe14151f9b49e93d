"""The engine on the native CPU kernel. It compiles nothing and pads nothing.

The kernel skips invalid steps, and a row's bits do not depend on the other rows of the batch. Unlike
:mod:`jaxlstm.inference.chunked`, it therefore needs no chunks of time and no shrinking batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlstm.inference.engine import Results, RunnerSettings, WorkCounter
from jaxlstm.inference.host_arrays import time_major
from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library
from jaxlstm.kernels.cpu.stack import LayerStack, PackedLayers, callers
from jaxlstm.layer.precision import gate_dtype


def is_available(device: Any, dtype: np.dtype, backend: str) -> bool:
    """Return True if a Runner with these settings uses the native kernel."""
    selected = device.platform == "cpu" and backend in ("auto", "native")
    return selected and library().handle is not None and dtype.name in DTYPE_NUMBERS


class NativeEngine:
    """An LSTM on the native kernel. Threads may share an engine.

    Attributes:
      settings: the limits of its calls.
      work: counts every call.
      needs_zero_padding: whether inputs must be zero after the end of each sequence.
    """

    needs_zero_padding = False

    def __init__(self, params: Mapping[str, jax.Array], settings: RunnerSettings) -> None:
        self.settings, self.work = settings, WorkCounter()
        self.layers = PackedLayers(params, time_major(settings.config), settings.dtype)

    def run_batch(
        self,
        x: np.ndarray | jax.Array,
        lengths: np.ndarray | None,
        state: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Results:
        """Return outputs, h and c for x (time, batch, input_size), int32 lengths (batch,), state (h, c)."""
        dtype, x = self.settings.dtype, np.asarray(x)
        time, batch = x.shape[:2]
        if lengths is None or lengths.min() == time:
            valid = None
            self.work.add_call(time * batch, time * batch)
        else:
            valid = np.arange(time)[:, None] < lengths
            self.work.add_call(int(lengths.sum()), self.computed_steps(lengths))
        if state is not None:
            h, c = (np.asarray(leaf, gate_dtype(dtype)) for leaf in state)
            state = h, c
        outputs, (h_n, c_n) = self.layers.run(x, valid, state)
        return outputs, h_n.astype(dtype, copy=False), c_n.astype(dtype, copy=False)

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps computed: in each, the rows up to the last valid one."""
        return int(np.maximum.accumulate(lengths[::-1]).sum())

    def stream_state(self, batch: int, spin: float) -> NativeState:
        """Return zeros for a stream, whose helper threads spin ``spin`` seconds after a call."""
        return NativeState(self, batch, spin)

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which each of ``count`` threads gets its share of the cores."""
        return callers(count)

    def warmup(self, *, progress: bool) -> None:
        """Do nothing: there is nothing to compile."""


class NativeState:
    """The state of a stream: NumPy arrays, which the native kernel advances without XLA."""

    def __init__(self, engine: NativeEngine, batch: int, spin: float) -> None:
        self._dtype = engine.settings.dtype
        self._stack = LayerStack(engine.layers, batch, spin)

    def step(self, x: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """Run one step of x (batch, input_size), of the rows where ``active`` is True."""
        return self._stack.step(x, active)

    def run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Run the steps of x (time, batch, input_size). Padding may hold any numbers."""
        is_full = lengths.min() == len(x)
        return self._stack.run(x, None if is_full else np.arange(len(x))[:, None] < lengths)

    def reset(self, rows: np.ndarray) -> None:
        """Set some rows to zeros; ``rows`` is bool (batch,)."""
        for leaf in self._stack.state:
            leaf[:, rows] = 0

    def get(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of h and c, rounded to the Runner's dtype."""
        h, c = self._stack.state
        return h.astype(self._dtype), c.astype(self._dtype)

    def set(self, h: np.ndarray, c: np.ndarray) -> None:
        """Copy (h, c) into the state."""
        for leaf, given in zip(self._stack.state, (h, c), strict=True):
            leaf[...] = given
