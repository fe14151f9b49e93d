"""``compile`` and the Runner: an LSTM for any length and batch size up to a limit, and for many sequences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import numpy as np

from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm._shared.progress import progress_bar
from jaxlstm.inference.compiled import CompiledEngine
from jaxlstm.inference.engine import RunnerSettings, Stats
from jaxlstm.inference.host_arrays import (
    cast_params,
    checked_array,
    host_lengths,
    host_state,
    time_major_inputs,
)
from jaxlstm.inference.native import NativeEngine, is_available
from jaxlstm.inference.program_runner import ProgramRunner
from jaxlstm.inference.stream import SPIN, Engine, Stream
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LSTMConfig, positive_int
from jaxlstm.layer.params import check_params
from jaxlstm.layer.precision import Precision, as_float_array
from jaxlstm.programs.program import Program

ORDERS = ("length", "given")
BATCH_SIZE = 32
"""Default number of sequences in a batch."""
WINDOW = 64
"""Default number of batches that are sorted together."""
IN_FLIGHT = 2
"""Number of batches at a time, if there are as many threads. One thread packs, computes and unpacks each."""

Result = tuple[np.ndarray, LSTMState]
"""Outputs (time, output_size) of one sequence, and its final state."""


@overload
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
) -> Runner: ...


@overload
def compile(
    program: Program, /, *, pad: bool | None = None, executables: int = ..., device: Any = None
) -> ProgramRunner: ...


def compile(params: Any, config: Any = None, **options: Any) -> Any:
    """Return an LSTM or a program for inference.

    An LSTM runs at every shape up to a limit: ``compile(params, config, max_length=..., max_batch=...)``.
    A program runs at every size of its free axes: ``compile(program)``.

    Args:
      params: parameters under torch's names. They are copied to the device once, so later changes have no
        effect.
      config: the LSTM. Its dropout is ignored.
      max_length: the largest number of time steps in a call. A stream takes any number.
      max_batch: the largest number of sequences in a call.
      dtype: dtype of the weights, inputs and states; the params are cast to it. The dtype of the params if
        None.
      precision: precision of the matrix products; see :mod:`jaxlstm.layer.precision`.
      backend: backend of ``jaxlstm.lstm``.
      device: the device to run on; JAX's default device if None.
      program: a program of ``jaxlstm.load_program`` or ``jaxlstm.from_module``. It has its own
        precision and backend. Its weights and buffers are bound, so later changes have no effect.
      pad: pad calls with zeros to sizes such as 16, 24, 32 and 48 along the free axes of the program, so that
        few shapes are compiled. None pads the axes along which no operation lets padding reach the results;
        recurrent layers get the lengths. True trusts you that this holds for all axes, and False compiles
        every size.
      executables: the number of executables of a program to keep. The least recently used one makes room.

    Returns:
      A :class:`Runner`, or a :class:`ProgramRunner` for a program. On the native kernel a Runner compiles
      nothing. Otherwise an executable is compiled at the first call that needs it; ``Runner.warmup`` compiles
      all of them.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or value.
      RuntimeError: the backend is unavailable.

    >>> runner = jaxlstm.inference.compile(params, config, max_length=64, max_batch=8)  # doctest: +SKIP
    >>> outputs, (h_n, c_n) = runner(inputs)  # doctest: +SKIP
    """
    if not isinstance(params, Program):
        return _compile_lstm(params, config, **options)
    unknown = sorted(options.keys() - {"pad", "executables", "device"})
    if config is not None or unknown:
        raise TypeError(
            f"for a program, compile takes pad, executables and device, got {unknown or 'a config'}; set "
            "precision and backend by program.with_options"
        )
    return ProgramRunner(params, **options)


def _compile_lstm(params: Mapping[str, Any], config: LSTMConfig, **options: Any) -> Runner:
    check_params(params, config)
    options["dtype"] = options.get("dtype") or as_float_array(*next(iter(params.items()))).dtype
    settings = RunnerSettings(config, **options)
    params = cast_params(params, settings.dtype)
    if is_available(settings.device, settings.dtype, settings.backend):
        return Runner(NativeEngine(params, settings))
    return Runner(CompiledEngine(params, settings))


class Runner:
    """An LSTM compiled for inference, made by :func:`compile`. Threads may share one.

    Results are NumPy arrays on the host.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        settings = engine.settings
        self.config, self.dtype, self.device = settings.config, settings.dtype, settings.device
        self.max_length, self.max_batch = settings.max_length, settings.max_batch

    def __repr__(self) -> str:
        return (
            f"Runner({self.config}, max_length={self.max_length}, max_batch={self.max_batch}, "
            f"dtype={self.dtype}, device={self.device})"
        )

    def __call__(
        self, inputs: Any, initial_state: Any = None, seq_lengths: Any = None
    ) -> tuple[np.ndarray, LSTMState]:
        """Run a batch.

        Args:
          inputs: (time, batch, input_size), (batch, time, input_size) with ``config.batch_first``, or
            (time, input_size) for a single sequence. NumPy or JAX arrays of the Runner's dtype.
          initial_state: (h_0, c_0) as for ``jaxlstm.lstm``; zeros if None. It is not donated.
          seq_lengths: integers (batch,), from 1 to time.

        Returns:
          ``(outputs, LSTMState(h_n, c_n))`` with the shapes that ``jaxlstm.lstm`` returns. Without the native
          kernel, the arrays are read-only.

        Raises:
          TypeError, ValueError: an argument has the wrong type or shape, or exceeds max_length or max_batch.
        """
        x, unbatched = time_major_inputs(inputs, self.config, self.dtype)
        time, batch = x.shape[:2]
        if time > self.max_length or batch > self.max_batch:
            raise ValueError(
                f"this Runner takes up to {self.max_length} steps of up to {self.max_batch} sequences, got "
                f"{time} of {batch}; compile it with a larger max_length or max_batch, or use a stream"
            )
        lengths = None
        if seq_lengths is not None:
            lengths = host_lengths(seq_lengths, batch, time)
        state = None
        if initial_state is not None:
            state = host_state(initial_state, self.config, batch, self.dtype, unbatched)
        outputs, h_n, c_n = self._engine.run_batch(x, lengths, state)
        if unbatched:
            return outputs[:, 0], LSTMState(h_n[:, 0], c_n[:, 0])  # type: ignore[arg-type]
        if self.config.batch_first:
            outputs = outputs.swapaxes(0, 1)
        return outputs, LSTMState(h_n, c_n)  # type: ignore[arg-type]

    def map(self, sequences: Iterable[Any], batch_size: int | None = None, **options: Any) -> list[Result]:
        """Return the results of :meth:`imap` as a list."""
        return list(self.imap(sequences, batch_size, **options))

    def imap(
        self,
        sequences: Iterable[Any],
        batch_size: int | None = None,
        *,
        order: str = "length",
        window: int | None = None,
        progress: bool = True,
    ) -> Iterator[Result]:
        """Run many sequences in batches of similar length.

        Args:
          sequences: an iterable of arrays (time, input_size), read as needed.
          batch_size: sequences in a batch, at most ``max_batch``; 32 or ``max_batch``, whichever is
            smaller, if None.
          order: "length" sorts each window by length, so that the sequences of a batch have similar lengths;
            "given" keeps the order.
          window: the number of sequences in memory at a time; 64 batches if None.
          progress: show a progress bar on standard error, if that is a terminal.

        Yields:
          ``(outputs, LSTMState(h_n, c_n))`` of each sequence, in the given order, with outputs
          (time, output_size) and states (layers * directions, features).
        """
        settings = self._engine.settings
        if batch_size is None:
            batch_size = min(BATCH_SIZE, settings.max_batch)
        batch_size = positive_int("batch_size", batch_size)
        if batch_size > settings.max_batch:
            raise ValueError(
                f"batch_size must be at most the Runner's max_batch, {settings.max_batch}; got {batch_size}"
            )
        if order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
        window = WINDOW * batch_size if window is None else positive_int("window", window)
        # The arguments are checked now, and each sequence when it is read.
        return self._results(sequences, batch_size, order, window, progress)

    def _results(
        self, sequences: Iterable[Any], batch_size: int, order: str, window: int, progress: bool
    ) -> Iterator[Result]:
        settings = self._engine.settings
        total = len(sequences) if hasattr(sequences, "__len__") else 0  # type: ignore[arg-type]
        numbered = enumerate(sequences)
        done = 0
        with progress_bar(progress) as bar:
            # Each sequence is copied when it is read: an iterator may yield the same buffer again.
            while arrays := [_sequence(settings, *item) for item in itertools.islice(numbered, window)]:
                results = dict(self.rows(arrays, batch_size, order))
                for index in range(len(arrays)):
                    yield results.pop(index)
                    done += 1
                    bar(done, total or done, "sequences")

    def rows(
        self,
        sequences: Sequence[np.ndarray],
        batch_size: int,
        order: str = "length",
        outputs: Sequence[np.ndarray] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Yield index and result of each sequence, batch by batch. The caller has checked the sequences.

        Args:
          outputs: an array for the outputs of each sequence; new arrays if None.
        """
        engine, indices = self._engine, list(range(len(sequences)))
        if outputs is None:
            outputs = [np.empty((len(x), self.config.output_size), self.dtype) for x in sequences]
        if order == "length":
            # The longest sequences run first, so that a lack of memory shows early.
            indices.sort(key=lambda index: -len(sequences[index]))
        batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        in_flight = min(IN_FLIGHT, engine.settings.threads)
        with engine.concurrent_calls(in_flight), ThreadPoolExecutor(in_flight) as workers:
            computed = workers.map(
                lambda rows: _run_rows(engine, [(sequences[row], outputs[row]) for row in rows]), batches
            )
            for rows, results in zip(batches, computed, strict=True):
                yield from zip(rows, results, strict=True)

    def stream(self, batch: int = 1, *, spin: float = SPIN) -> Stream:
        """Return a :class:`jaxlstm.inference.Stream` of ``batch`` sequences that arrive in chunks.

        Args:
          batch: the number of sequences.
          spin: seconds that helper threads of the native kernel spin after a call, so that a call that
            follows within that time uses all cores at once. Then they sleep. With 0 they never spin, and
            short calls run on one core. Other backends ignore it.
        """
        return Stream(self._engine, positive_int("batch", batch), spin)

    def warmup(self, *, progress: bool = True) -> None:
        """Compile every executable of single calls and ``map``, with a progress bar on a terminal.

        The native kernel has none.
        """
        self._engine.warmup(progress=progress)

    def stats(self) -> Stats:
        """Return the counts of compilations, calls and time steps so far."""
        return self._engine.work.stats()


def _run_rows(engine: Engine, batch: list[tuple[np.ndarray, np.ndarray]]) -> list[Result]:
    """Run one batch of inputs and the arrays for their outputs, which do not keep the batch in memory."""
    lengths = np.array([len(array) for array, _ in batch], np.int32)
    x = aligned_zeros(
        (int(lengths.max()), len(batch), engine.settings.config.input_size), engine.settings.dtype
    )
    for row, (array, _) in enumerate(batch):
        x[: len(array), row] = array
    outputs, *states = engine.run_batch(x, lengths)
    results = []
    for row, (_, target) in enumerate(batch):
        target[...] = outputs[: len(target), row]
        results.append((target, LSTMState(*(leaf[:, row].copy() for leaf in states))))  # type: ignore[arg-type]
    return results


def _sequence(settings: RunnerSettings, number: int, value: Any) -> np.ndarray:
    array = np.array(checked_array(f"sequence {number}", value, settings.dtype))
    features = settings.config.input_size
    if array.ndim != 2 or array.shape[1] != features or not 1 <= len(array) <= settings.max_length:
        raise ValueError(
            f"sequence {number} must have shape (time, {features}) with time from 1 to "
            f"{settings.max_length}, got {array.shape}"
        )
    return array
