"""The engine for every platform and backend: executables for a few shapes, the buckets.

Lengths and batch sizes are rounded up to a power of two, and never above the caller's own limit. The shortest
length is :data:`SHORTEST`. Computation stops at the end of the longest sequence, so a long bucket costs
memory but no time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm._shared.progress import progress_bar
from jaxlstm.inference.chunked import ChunkedForward
from jaxlstm.inference.engine import Recent, Results, RunnerSettings, WorkCounter
from jaxlstm.inference.host_arrays import time_major

SHORTEST = 16


def bucket_of(size: int, largest: int | None, shortest: int = 1, *, three_quarters: bool = False) -> int:
    """Return ``size`` rounded up to a power of two or ``three_quarters`` of one, within limits.

    >>> [bucket_of(size, 100, 16) for size in (3, 17, 65)], bucket_of(33, None, three_quarters=True)
    ([16, 32, 100], 48)
    """
    bucket = 1 << (size - 1).bit_length()
    if three_quarters and size <= 3 * bucket // 4:
        bucket = 3 * bucket // 4
    bucket = max(shortest, bucket)
    return bucket if largest is None else min(bucket, largest)


def buckets(largest: int, shortest: int = 1) -> list[int]:
    """Return all buckets of powers of two."""
    return sorted({bucket_of(1 << k, largest, shortest) for k in range(largest.bit_length() + 1)})


class CompiledEngine:
    """An LSTM with an executable for each bucket that was used so far. It has the methods of NativeEngine."""

    def __init__(self, params: Mapping[str, jax.Array], settings: RunnerSettings) -> None:
        self.settings, self.work = settings, WorkCounter()
        self._forward = ChunkedForward(time_major(settings.config), settings.precision, settings.backend)
        self.weights = jax.device_put(dict(params), settings.device)
        # Trace one step, so that an unavailable backend raises here and not at the first call.
        jax.eval_shape(self._forward.step, self.weights, *self._shapes(1))
        self._executables = Recent(math.inf)

    def run_batch(
        self,
        x: np.ndarray | jax.Array,
        lengths: np.ndarray | None,
        state: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Results:
        """Pad a batch to its bucket and run it; see ``NativeEngine.run_batch``."""
        time, batch = x.shape[:2]
        rows = bucket_of(batch, self.settings.max_batch)
        steps = bucket_of(time, self.settings.max_length, SHORTEST)
        executable = self.executable("batch", steps, rows, donate=False)
        if (time, batch) != (steps, rows) or not _takes(executable, x):
            x = padded(np.asarray(x), (steps, rows))
        valid_steps = np.full(batch, time, np.int32) if lengths is None else lengths
        padded_lengths = padded(valid_steps.astype(np.int32, copy=False), (rows,))
        self.work.add_call(int(valid_steps.sum()), self.computed_steps(padded_lengths))
        shapes = self.settings.config.state_shapes(rows)
        h, c = (aligned_zeros(shape, self.settings.dtype) for shape in shapes)
        if state is not None:
            h[:, :batch], c[:, :batch] = state
        outputs, h, c = map(np.asarray, executable(self.weights, x, h, c, padded_lengths))
        return outputs[:time, :batch], h[:, :batch], c[:, :batch]

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps that a batch of these lengths computes, padding included."""
        return self._forward.computed_steps(lengths)

    def stream_state(self, batch: int, spin: float) -> CompiledState:
        """Return zeros for a stream."""
        return CompiledState(self, batch)

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return an empty context: XLA shares the cores among threads."""
        return contextlib.nullcontext()

    def warmup(self, *, progress: bool) -> None:
        """Compile every executable of single calls and ``map``, with a progress bar on a terminal."""
        lengths = buckets(self.settings.max_length, SHORTEST)
        shapes = list(itertools.product(lengths, buckets(self.settings.max_batch)))
        with progress_bar(progress) as bar:
            for done, (time, batch) in enumerate(shapes):
                bar(done, len(shapes), f"compiling {time} steps of {batch}")
                self.executable("batch", time, batch, donate=False)

    def executable(self, method: str, *sizes: int, donate: bool = True, lengths: bool = True) -> Any:
        """Return a method of the forward pass, compiled for inputs of sizes (time, batch) or (batch,).

        Its arguments are ``weights``, inputs, h, c and, with ``lengths``, the lengths or active rows. With
        ``donate``, h and c are donated.
        """
        key = method, sizes, donate, lengths
        return self._executables.get_or_make(key, lambda: self._compile(*key))

    def _compile(self, method: str, sizes: tuple[int, ...], donate: bool, lengths: bool) -> Any:
        shapes = self._shapes(*sizes)
        if lengths:
            shapes.append(self._shape(sizes[-1], dtype=np.int32))
        jitted = jax.jit(getattr(self._forward, method), donate_argnames=("h", "c") if donate else ())
        executable = jitted.lower(self.weights, *shapes).compile()
        self.work.add_compilation()
        return executable

    def _shapes(self, *sizes: int) -> list[jax.ShapeDtypeStruct]:
        """Return the shapes of inputs, h and c on the device; the batch is the last of the sizes."""
        config = self.settings.config
        shapes = [(*sizes, config.input_size), *config.state_shapes(sizes[-1])]
        return [self._shape(*shape) for shape in shapes]

    def _shape(self, *shape: int, dtype: Any = None) -> jax.ShapeDtypeStruct:
        sharding = jax.sharding.SingleDeviceSharding(self.settings.device)
        return jax.ShapeDtypeStruct(shape, dtype or self.settings.dtype, sharding=sharding)


def _takes(executable: Any, x: Any) -> bool:
    """Return True if an executable takes a batch as it is, from its device and in its layout."""
    (_, inputs, *_), _ = executable.input_formats
    return isinstance(x, np.ndarray) or x.format == inputs


def padded(x: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return x with zeros up to the sizes of its first axes, or x itself if it has them."""
    shape = (*sizes, *x.shape[len(sizes) :])
    if x.shape == shape:
        return x
    padded = aligned_zeros(shape, x.dtype)
    padded[tuple(map(slice, x.shape))] = x
    return padded


@partial(jax.jit, donate_argnums=(0, 1))
def _reset(h: jax.Array, c: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the state with zeros in some rows; ``rows`` is bool (batch,)."""
    row = rows[:, None]
    return jnp.where(row, jnp.zeros_like(h), h), jnp.where(row, jnp.zeros_like(c), c)


class CompiledState:
    """The state of a stream: buffers on the device, donated from call to call."""

    def __init__(self, engine: CompiledEngine, batch: int) -> None:
        self._engine = engine
        self._batch = batch
        self._step = engine.executable("step", batch, lengths=False)
        shapes = engine.settings.config.state_shapes(batch)
        self.set(*(np.zeros(shape, engine.settings.dtype) for shape in shapes))

    def step(self, x: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """Run one step of x (batch, input_size), of the rows where ``active`` is True."""
        executable, extra = self._step, ()
        if active is not None:
            executable, extra = self._engine.executable("step", self._batch), (active.astype(np.int32),)
        y, self._h, self._c = executable(self._engine.weights, x, self._h, self._c, *extra)
        return np.asarray(y)

    def run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Run up to ``max_length`` steps of x (time, batch, input_size) within the lengths."""
        steps = bucket_of(len(x), self._engine.settings.max_length, SHORTEST)
        executable = self._engine.executable("batch", steps, self._batch)
        padded_x = padded(x, (steps,))
        y, self._h, self._c = executable(self._engine.weights, padded_x, self._h, self._c, lengths)
        return np.asarray(y)[: len(x)]

    def reset(self, rows: np.ndarray) -> None:
        """Set some rows to zeros; ``rows`` is bool (batch,)."""
        self._replace(self._h, self._c, rows)

    def get(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of h and c."""
        return np.array(self._h), np.array(self._c)

    def set(self, h: np.ndarray, c: np.ndarray) -> None:
        """Copy (h, c) to buffers that can be donated, unlike buffers that share memory with NumPy."""
        h_new, c_new = jax.device_put((h, c), self._engine.settings.device)
        self._replace(h_new, c_new, np.zeros(self._batch, bool))

    def _replace(self, h: jax.Array, c: jax.Array, zeroed: np.ndarray) -> None:
        """Replace the state by (h, c) with some rows set to zeros."""
        # The arguments may share memory with the caller's arrays, so wait until they have been read.
        self._h, self._c = jax.block_until_ready(_reset(h, c, zeroed))  # type: ignore[arg-type]
