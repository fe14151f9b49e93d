"""The engine for every platform and backend: executables for a few shapes, the buckets."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlstm._shared.progress import progress_bar
from jaxlstm.inference.arguments import time_major
from jaxlstm.inference.buckets import batch_buckets, bucket_of, length_buckets
from jaxlstm.inference.chunked import ChunkedForward
from jaxlstm.inference.engine import Engine, Results
from jaxlstm.inference.padding import padded_inputs, padded_start
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.precision import Precision


class CompiledEngine(Engine):
    """An LSTM with an executable for each bucket that was used so far.

    For the arguments see :func:`jaxlstm.inference.compile`.
    """

    def __init__(
        self,
        params: Mapping[str, jax.Array],
        config: LSTMConfig,
        *,
        precision: Precision,
        backend: str,
        **settings: Any,
    ) -> None:
        super().__init__(config, **settings)
        self.length_buckets = length_buckets(self.max_length)
        self.batch_buckets = batch_buckets(self.max_batch)
        self._forward = ChunkedForward(time_major(config), precision, backend)
        self.weights = jax.device_put(dict(params), self.device)
        # Trace one step, so that an unavailable backend raises here and not at the first call.
        jax.eval_shape(self._forward.step, self.weights, *self._step_shapes(1))
        self._executables: dict[tuple, Any] = {}
        self._compiling = threading.Lock()

    def run_batch(
        self,
        x: np.ndarray | jax.Array,
        lengths: np.ndarray | None,
        state: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Results:
        """Implement :meth:`Engine.run_batch`: pad the batch to its bucket, and cut the results."""
        time, batch = x.shape[:2]
        rows = bucket_of(batch, self.batch_buckets)
        steps = bucket_of(time, self.length_buckets)
        executable = self.batch_executable(steps, rows)
        if (time, batch) != (steps, rows) or not _takes(executable, x):
            x = padded_inputs(np.asarray(x), steps, rows)
        given = np.full(batch, time, np.int32) if lengths is None else lengths
        h, c, padded_lengths = padded_start(self.config, self.dtype, rows, given, state)
        self.count(int(given.sum()), self.computed_steps(padded_lengths))
        outputs, h, c = map(np.asarray, executable(self.weights, x, h, c, padded_lengths))
        return outputs[:time, :batch], h[:, :batch], c[:, :batch]

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Implement :meth:`Engine.computed_steps`."""
        return self._forward.computed_steps(lengths)

    def warmup(self, *, progress: bool) -> None:
        """Compile every executable of single calls and ``map``, with a progress bar on a terminal."""
        shapes = list(itertools.product(self.length_buckets, self.batch_buckets))
        with progress_bar(progress) as bar:
            for done, (time, batch) in enumerate(shapes):
                bar(done, len(shapes), f"compiling {time} steps of {batch}")
                self.batch_executable(time, batch)

    def batch_executable(self, time: int, batch: int, *, donate: bool = False) -> Any:
        """Return the executable for a batch of one shape, which may donate h and c.

        Its arguments are ``weights``, inputs, h, c and lengths.
        """
        return self._executable("batch", time, batch, donate)

    def step_executable(self, batch: int, *, masked: bool = False) -> Any:
        """Return the executable for one time step, which donates h and c.

        Its arguments are ``weights``, inputs, h, c and, if ``masked``, ``active``.
        """
        return self._executable("step", batch, masked)

    def _executable(self, *key: Any) -> Any:
        executable = self._executables.get(key)
        if executable is None:
            with self._compiling:
                executable = self._executables.get(key) or self._compile(*key)
                self._executables[key] = executable
        return executable

    def _compile(self, kind: str, *settings: Any) -> Any:
        if kind == "batch":
            time, batch, donate = settings
            function, with_lengths = self._forward.batch, True
            shapes = [self._shape(time, batch, self.config.input_size), *self.state_shapes(batch)]
        else:
            batch, with_lengths = settings
            function, donate = self._forward.step, True
            shapes = self._step_shapes(batch)
        if with_lengths:
            shapes.append(jax.ShapeDtypeStruct((batch,), np.int32, sharding=shapes[0].sharding))
        jitted = jax.jit(function, donate_argnames=("h", "c") if donate else ())
        executable = jitted.lower(self.weights, *shapes).compile()
        with self._counting:
            self._compilations += 1
        return executable

    def _step_shapes(self, batch: int) -> list[jax.ShapeDtypeStruct]:
        return [self._shape(batch, self.config.input_size), *self.state_shapes(batch)]

    def state_shapes(self, batch: int) -> list[jax.ShapeDtypeStruct]:
        """Return the shapes of h and c on the device."""
        return [self._shape(*shape) for shape in self.config.state_shapes(batch)]

    def _shape(self, *shape: int) -> jax.ShapeDtypeStruct:
        sharding = jax.sharding.SingleDeviceSharding(self.device)
        return jax.ShapeDtypeStruct(shape, self.dtype, sharding=sharding)


def _takes(executable: Any, x: Any) -> bool:
    """Return True if an executable takes a batch as it is, from its device and in its layout."""
    (_, inputs, *_), _ = executable.input_formats
    return isinstance(x, np.ndarray) or x.format == inputs
