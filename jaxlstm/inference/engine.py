"""The engine below Runner, Stream and ``map``: weights on a device, and executables by shape."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxlstm.config import LSTMConfig, positive_int
from jaxlstm.inference import native
from jaxlstm.inference.arguments import cast_params, one_device, time_major
from jaxlstm.inference.buckets import batch_buckets, bucket_of, length_buckets
from jaxlstm.inference.chunked import ChunkedForward, Results
from jaxlstm.inference.padding import FullBatch, padded_inputs, padded_start
from jaxlstm.params import check_params
from jaxlstm.precision import Precision, as_float_array, require_dtype, resolve


@dataclass(frozen=True)
class Stats:
    """Counts of a Runner's work so far.

    Args:
      compilations: executables compiled.
      calls: executables run by single calls, ``map`` and streams together.
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


class Engine:
    """An LSTM on one device, with an executable for each bucket that was used so far.

    Threads may share an Engine. For the arguments see :func:`jaxlstm.inference.compile`.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        config: LSTMConfig,
        *,
        max_length: int,
        max_batch: int,
        dtype: Any,
        precision: Precision,
        backend: str,
        device: Any,
    ) -> None:
        check_params(params, config)
        # Check the precision also for the native kernel, which ignores it.
        resolve(precision)
        self.config = config
        self.dtype = require_dtype("dtype", dtype or as_float_array(*next(iter(params.items()))).dtype)
        self.max_length = positive_int("max_length", max_length)
        self.max_batch = positive_int("max_batch", max_batch)
        self.length_buckets = length_buckets(self.max_length)
        self.batch_buckets = batch_buckets(self.max_batch)
        self.device = one_device(device)
        self._forward: ChunkedForward | native.NativeForward
        self.is_native = native.is_available(self.device, self.dtype, backend)
        if self.is_native:
            self._forward = native.NativeForward(time_major(config))
        else:
            self._forward = ChunkedForward(time_major(config), precision, backend)
        weights = self._forward.prepare(cast_params(params, self.dtype))
        self.weights = jax.device_put(weights, self.device)
        # Trace one step, so that an unavailable backend raises here and not at the first call.
        jax.eval_shape(self._forward.step, self.weights, *self._step_shapes(1))
        self._executables: dict[tuple, Any] = {}
        self._full_batches: dict[tuple[int, int], FullBatch] = {}
        self._compiling = threading.Lock()
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

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps that a batch of these lengths computes, padding included."""
        return self._forward.computed_steps(lengths)

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which ``count`` threads call executables at the same time."""
        return self._forward.concurrent_calls(count)

    def run_batch(
        self,
        x: np.ndarray | jax.Array,
        lengths: np.ndarray | None,
        state: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Results:
        """Pad a batch to its bucket and start its executable.

        Args:
          x: (time, batch, input_size), with zeros after each length.
          lengths: int32 (batch,), or None if every sequence has ``time`` steps.
          state: (h, c), or None for zeros.

        Returns:
          Outputs, h and c with the shapes of the bucket. Reading them waits for the computation.
        """
        if lengths is None and state is None and (full := self._full_batch(x)):
            self.count(full.valid_steps, full.computed_steps)
            return full.executable(self.weights, x, *full.start)
        time, batch = x.shape[:2]
        if time > self.max_length or batch > self.max_batch:
            raise ValueError(
                f"this Runner takes up to {self.max_length} steps of up to {self.max_batch} sequences, got "
                f"{time} of {batch}; compile it with a larger max_length or max_batch, or use a stream"
            )
        rows = bucket_of(batch, self.batch_buckets)
        steps = bucket_of(time, self.length_buckets)
        padded = padded_inputs(np.asarray(x), steps, rows)
        executable = self.batch_executable(steps, rows)
        given = np.full(batch, time, np.int32) if lengths is None else lengths
        h, c, padded_lengths = padded_start(self.config, self.dtype, rows, given, state)
        self.count(int(given.sum()), self.computed_steps(padded_lengths))
        return executable(self.weights, padded, h, c, padded_lengths)

    def _full_batch(self, x: Any) -> FullBatch | None:
        """Return the executable and its other arguments for x, or None if x must be padded or moved."""
        steps, rows, _ = x.shape
        full = self._full_batches.get((steps, rows))
        if full is None and steps in self.length_buckets and rows in self.batch_buckets:
            start = padded_start(self.config, self.dtype, rows, np.full(rows, steps, np.int32), None)
            executable = self.batch_executable(steps, rows)
            (_, input_format, *_), _ = executable.input_formats
            full = FullBatch(
                executable,
                input_format,
                jax.device_put(start, self.device),
                steps * rows,
                self.computed_steps(start[2]),
            )
            self._full_batches[steps, rows] = full
        if full is None or isinstance(x, np.ndarray) or x.format == full.input_format:
            return full
        return None

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
