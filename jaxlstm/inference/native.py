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


def is_available(device: Any, dtype: np.dtype, backend: str) -> bool:
    """Return True if a Runner with these settings uses the native kernel."""
    selected = device.platform == "cpu" and backend in ("auto", "native")
    return selected and library().handle is not None and dtype.name in DTYPE_NUMBERS


class NativeEngine:
    """An LSTM on the native kernel. Threads may share an engine.

    Attributes:
      settings: the limits of its calls.
      work: counts every call.
    """

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
        steps = x.shape[0] * x.shape[1]
        valid = steps if lengths is None else int(lengths.sum())
        if valid == steps:
            lengths = None
        self.work.add_call(valid, steps if lengths is None else self.computed_steps(lengths))
        return self.layers.run(np.asarray(x), lengths, state)

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps computed: in each, the rows up to the last valid one."""
        return int(np.maximum.accumulate(lengths[::-1]).sum())

    def stream_state(self, batch: int, spin: float) -> LayerStack:
        """Return zeros for a stream, whose helper threads spin ``spin`` seconds after a call."""
        return LayerStack(self.layers, batch, spin)

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which each of ``count`` threads gets its share of the cores."""
        return callers(count)

    def warmup(self, *, progress: bool) -> None:
        """Do nothing: there is nothing to compile."""
