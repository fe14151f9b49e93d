"""``compile``: an LSTM ready to run at any length and batch size, without compiling again."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.inference import native, program
from jaxlstm.inference.arguments import (
    cast_params,
    host_lengths,
    host_state,
    one_device,
    positive,
    time_major_inputs,
    without_padding,
)
from jaxlstm.inference.buckets import Stats, batch_buckets, bucket_of, length_buckets
from jaxlstm.kernels.cpu.memory import aligned_zeros
from jaxlstm.params import check_params
from jaxlstm.precision import Precision, as_float_array, require_dtype, resolve

if TYPE_CHECKING:
    from jaxlstm.inference.stream import Stream


def compile(
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    max_length: int,
    max_batch: int,
    dtype: Any = None,
    precision: Precision = precision_.DEFAULT,
    backend: str = "auto",
    device: Any = None,
) -> Runner:
    """An LSTM for inference, compiled ahead of time for a few shapes that serve all others.

    Args:
      params: under torch's names; they are copied to the device once, so later changes are not seen.
      config: the LSTM. Its dropout plays no part: this is inference.
      max_length: the longest sequence that a call may have. (A stream takes any number of steps.)
      max_batch: the most sequences that a call may have.
      dtype: to which the params are cast, and which inputs and states must have; that of the params
        if None.
      precision: of the matrix products, see :mod:`jaxlstm.precision`.
      backend: of ``jaxlstm.lstm``.
      device: where to run; JAX's default device if None.

    Returns:
      A :class:`Runner`. A program is compiled when it is first needed; ``Runner.warmup`` compiles all.

    Raises:
      TypeError, ValueError: an argument does not fit; the message names it and says what does.
    """
    return Runner(
        params,
        config,
        max_length=max_length,
        max_batch=max_batch,
        dtype=dtype,
        precision=precision,
        backend=backend,
        device=device,
    )


class Runner:
    """What :func:`compile` returns. Threads may share one; results come to the host, as NumPy arrays.

    They do so because cutting a padded result to its own shape on the device would compile a program for
    each shape.
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
        resolve(precision)  # an error for a wrong one, also where the native kernel needs none
        self.config = config
        self.dtype = require_dtype(
            "dtype", dtype or as_float_array(*next(iter(params.items()))).dtype
        )
        self.max_length = positive("max_length", max_length)
        self.max_batch = positive("max_batch", max_batch)
        self.length_buckets = length_buckets(self.max_length)
        self.batch_buckets = batch_buckets(self.max_batch)
        self.device = one_device(device)
        stored = cast_params(params, self.dtype)
        self._how: dict[str, Any] = {"config": program.time_major(config)}
        if native.runs_here(self.device, self.dtype, backend):
            self._module: Any = native
            stored = native.prepare(stored, config)
        else:
            self._module = program
            self._how |= {"precision": precision, "backend": backend}
        self._weights = jax.device_put(stored, self.device)
        self._check_how()
        self._programs: dict[tuple, Any] = {}
        self._compiling = threading.Lock()
        self._counting = threading.Lock()
        self._stats = Stats()

    def __call__(
        self, inputs: Any, initial_state: Any = None, seq_lengths: Any = None
    ) -> tuple[np.ndarray, LSTMState]:
        """Run a batch.

        Args:
          inputs: (time, batch, input_size), (batch, time, input_size) with ``config.batch_first``, or
            (time, input_size) for one sequence alone; NumPy or JAX, of the Runner's dtype.
          initial_state: (h_0, c_0) as for ``jaxlstm.lstm``; zeros if None. It is not donated.
          seq_lengths: integers (batch,), from 1 to time.

        Returns:
          ``(outputs, LSTMState(h_n, c_n))`` of the shapes that ``jaxlstm.lstm`` gives, as read-only NumPy
          arrays: each program's result, cut to size without a copy.

        Raises:
          TypeError, ValueError: an argument does not fit, or is above max_length or max_batch.
        """
        x, unbatched = time_major_inputs(inputs, self.config, self.dtype)
        time, batch = x.shape[:2]
        lengths = host_lengths(seq_lengths, batch, time)
        x = without_padding(x, lengths)
        state = None
        if initial_state is not None:
            state = host_state(initial_state, self.config, batch, self.dtype, unbatched)
        outputs, h_n, c_n = (np.asarray(leaf) for leaf in self._dispatch(x, lengths, state))
        outputs, h_n, c_n = outputs[:time, :batch], h_n[:, :batch], c_n[:, :batch]
        if unbatched:
            return outputs[:, 0], LSTMState(h_n[:, 0], c_n[:, 0])  # type: ignore[arg-type]
        if self.config.batch_first:
            outputs = outputs.swapaxes(0, 1)
        return outputs, LSTMState(h_n, c_n)  # type: ignore[arg-type]

    def map(self, sequences: Iterable[Any], batch_size: int = 32, **options: Any) -> list:
        """:meth:`imap` as a list: ``[(outputs, LSTMState(h_n, c_n)), ...]`` in the given order."""
        return list(self.imap(sequences, batch_size, **options))

    def imap(
        self,
        sequences: Iterable[Any],
        batch_size: int = 32,
        *,
        order: str = "length",
        window: int | None = None,
        progress: bool = True,
    ) -> Iterator[tuple[np.ndarray, LSTMState]]:
        """Run many sequences, batched by length, while the host prepares the next batch.

        Args:
          sequences: arrays (time, input_size), each of its own length; any iterable, read as needed.
          batch_size: sequences to a batch, at most ``max_batch``.
          order: "length" sorts each window by length, so that batches hold sequences much alike;
            "given" takes them as they come.
          window: sequences held at a time, which bounds memory; 64 batches if None.
          progress: show a bar on standard error, if that is a terminal.

        Yields:
          ``(outputs (time, output_size), LSTMState(h_n, c_n))`` of each sequence, in the given order; the
          states are (layers * directions, features).
        """
        from jaxlstm.inference.batches import run_many

        return run_many(self, sequences, batch_size, order, window, progress)

    def stream(self, batch: int = 1) -> Stream:
        """A :class:`jaxlstm.inference.Stream` of ``batch`` sequences that arrive in chunks."""
        from jaxlstm.inference.stream import Stream

        return Stream(self, positive("batch", batch))

    def warmup(self, *, progress: bool = True) -> None:
        """Compile every program of single calls and ``map`` now, with a bar on a terminal."""
        from jaxlstm._shared.progress import progress_bar

        shapes = list(itertools.product(self.length_buckets, self.batch_buckets))
        with progress_bar(progress) as bar:
            for done, (time, batch) in enumerate(shapes):
                bar(done, len(shapes), f"compiling {time} steps of {batch}")
                self.batch_program(time, batch)

    def stats(self) -> Stats:
        """What was compiled and run so far."""
        return self._stats

    def batch_program(self, time: int, batch: int, *, donate: bool = False) -> Any:
        """The compiled ``forward`` of one shape; h_0 and c_0 donated or not."""
        return self._compiled("forward", donate, (time, batch, self.config.input_size), True)

    def step_program(self, batch: int, *, masked: bool = False) -> Any:
        """The compiled ``step``, with ``active`` or not; h and c donated."""
        return self._compiled("step", True, (batch, self.config.input_size), masked)

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Time steps that a program computes for rows of these lengths, padding included."""
        return self._module.computed_steps(lengths)

    def count(self, valid: int, computed: int) -> None:
        """Add one call to the stats."""
        with self._counting:
            s = self._stats
            self._stats = dataclasses.replace(
                s,
                calls=s.calls + 1,
                valid_steps=s.valid_steps + valid,
                computed_steps=s.computed_steps + computed,
            )

    def _dispatch(
        self, x: np.ndarray, lengths: np.ndarray, state: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Pad, and start the program; its results are awaited by whoever reads them."""
        time, batch = x.shape[:2]
        if time > self.max_length or batch > self.max_batch:
            raise ValueError(
                f"this Runner takes up to {self.max_length} steps of up to {self.max_batch} sequences, got "
                f"{time} of {batch}; compile it with a larger max_length or max_batch, or use a stream"
            )
        rows = bucket_of(batch, self.batch_buckets)
        steps = bucket_of(time, self.length_buckets)
        padded = aligned_zeros((steps, rows, x.shape[2]), self.dtype)
        padded[:time, :batch] = x
        padded_lengths = np.zeros(rows, np.int32)
        padded_lengths[:batch] = lengths
        padded_state = [
            aligned_zeros(shape, self.dtype) for shape in self.config.state_shapes(rows)
        ]
        for leaf, given in zip(padded_state, state or (), strict=False):
            leaf[:, :batch] = given
        self.count(int(lengths.sum()), self.computed_steps(padded_lengths))
        compiled = self.batch_program(steps, rows)
        return compiled(self._weights, padded, *padded_state, padded_lengths)

    def _compiled(self, *key: Any) -> Any:
        found = self._programs.get(key)
        if found is None:
            with self._compiling:
                found = self._programs.get(key) or self._compile(*key)
                self._programs[key] = found
        return found

    def _compile(self, name: str, donate: bool, inputs: tuple[int, ...], ragged: bool) -> Any:
        batch = inputs[-2]
        shapes = [self._shape(*inputs), *self._state_shapes(batch)]
        if ragged:
            shapes.append(jax.ShapeDtypeStruct((batch,), np.int32, sharding=shapes[0].sharding))
        run = functools.partial(_run, getattr(self._module, name), how=self._how)
        jitted = jax.jit(run, donate_argnames=("h", "c") if donate else ())
        compiled = jitted.lower(self._weights, *shapes).compile()
        with self._counting:
            self._stats = dataclasses.replace(
                self._stats, compilations=self._stats.compilations + 1
            )
        return compiled

    def _check_how(self) -> None:
        """Trace one step, so that a wrong backend is told now and not at the first call."""
        run = functools.partial(_run, self._module.step, how=self._how)
        x = self._shape(1, self.config.input_size)
        jax.eval_shape(run, self._weights, x, *self._state_shapes(1))

    def _shape(self, *shape: int) -> jax.ShapeDtypeStruct:
        where = jax.sharding.SingleDeviceSharding(self.device)
        return jax.ShapeDtypeStruct(shape, self.dtype, sharding=where)

    def _state_shapes(self, batch: int) -> list[jax.ShapeDtypeStruct]:
        return [self._shape(*shape) for shape in self.config.state_shapes(batch)]


def _run(
    function: Any, weights: Any, x: Any, h: Any, c: Any, *lengths: Any, how: dict[str, Any]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The function that is compiled."""
    return function(weights, x, h, c, *lengths, **how)
