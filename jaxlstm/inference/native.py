"""The forward pass on the native CPU kernel: one call for each layer and direction.

The kernel skips invalid steps, and a row's bits do not depend on the other rows of the batch. Unlike
:mod:`jaxlstm.inference.chunked`, it therefore needs no chunks of time and no shrinking batch. AMX changes
results within rounding; the kernel decides on AMX by the number of valid rows, not by the bucket.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.inference.chunked import Results
from jaxlstm.kernels.cpu import prepared
from jaxlstm.kernels.cpu.library import library
from jaxlstm.params import direction_params
from jaxlstm.stack import over_layers


def is_available(device: Any, dtype: np.dtype, backend: str) -> bool:
    """Return True if a Runner with these settings uses the native kernel."""
    selected = device.platform == "cpu" and backend in ("auto", "native")
    return selected and library().handle is not None and dtype.name in library().dtypes


@dataclass(frozen=True)
class NativeForward:
    """The forward pass of :class:`jaxlstm.inference.chunked.ChunkedForward`, on weights packed once."""

    config: LSTMConfig

    def prepare(self, params: Mapping[str, jax.Array]) -> list[np.ndarray]:
        """Return the packed weights of each layer and direction, in the order of the state."""
        arrays: Any = {name: np.asarray(leaf) for name, leaf in params.items()}
        return [
            prepared.prepare(direction_params(arrays, self.config, layer, direction))
            for layer in range(self.config.num_layers)
            for direction in range(self.config.num_directions)
        ]

    def batch(
        self, weights: Any, inputs: jax.Array, h: jax.Array, c: jax.Array, lengths: jax.Array | None
    ) -> Results:
        """Run a padded batch of sequences."""

        def run_direction(
            layer: int, direction: int, x: jax.Array, state: LSTMState
        ) -> tuple[jax.Array, LSTMState]:
            packed = weights[layer * self.config.num_directions + direction]
            return prepared.run(packed, x, state, lengths, reverse=direction == 1)

        outputs, final = over_layers(self.config, inputs, (h, c), run_direction)
        return outputs, final.h, final.c

    def step(
        self, weights: Any, inputs: jax.Array, h: jax.Array, c: jax.Array, active: jax.Array | None = None
    ) -> Results:
        """Run one time step."""
        outputs, h, c = self.batch(weights, inputs[None], h, c, active)
        return outputs[0], h, c

    @staticmethod
    def computed_steps(lengths: np.ndarray) -> int:
        """Return the number of time steps computed: in each, the rows up to the last valid one."""
        return int(np.maximum.accumulate(lengths[::-1]).sum())

    @staticmethod
    def concurrent_calls(count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which each of ``count`` threads gets its share of the cores."""
        return prepared.callers(count)
