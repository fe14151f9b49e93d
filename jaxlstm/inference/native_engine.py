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

from jaxlstm.inference.arguments import time_major
from jaxlstm.inference.engine import Engine, Results
from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library
from jaxlstm.kernels.cpu.stack import PackedLayers, callers
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.precision import gate_dtype


def is_available(device: Any, dtype: np.dtype, backend: str) -> bool:
    """Return True if a Runner with these settings uses the native kernel."""
    selected = device.platform == "cpu" and backend in ("auto", "native")
    return selected and library().handle is not None and dtype.name in DTYPE_NUMBERS


class NativeEngine(Engine):
    """An LSTM on the native kernel; for the arguments see :func:`jaxlstm.inference.compile`."""

    needs_zero_padding = False

    def __init__(self, params: Mapping[str, jax.Array], config: LSTMConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.layers = PackedLayers(params, time_major(config), self.dtype)

    def run_batch(
        self,
        x: np.ndarray | jax.Array,
        lengths: np.ndarray | None,
        state: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Results:
        """Implement :meth:`Engine.run_batch`."""
        x = np.asarray(x)
        time, batch = x.shape[:2]
        if lengths is None or lengths.min() == time:
            valid = None
            self.count(time * batch, time * batch)
        else:
            valid = np.arange(time)[:, None] < lengths
            self.count(int(lengths.sum()), self.computed_steps(lengths))
        if state is not None:
            h, c = (np.asarray(leaf, gate_dtype(self.dtype)) for leaf in state)
            state = h, c
        outputs, (h_n, c_n) = self.layers.run(x, valid, state)
        return outputs, h_n.astype(self.dtype, copy=False), c_n.astype(self.dtype, copy=False)

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps computed: in each, the rows up to the last valid one."""
        return int(np.maximum.accumulate(lengths[::-1]).sum())

    def warmup(self, *, progress: bool) -> None:
        """Do nothing: there is nothing to compile."""

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which each of ``count`` threads gets its share of the cores."""
        return callers(count)
