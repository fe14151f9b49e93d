"""``compile`` and the Runner: an LSTM for any length and batch size up to a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxlstm.inference._map import Result, imap
from jaxlstm.inference.arguments import (
    cast_params,
    host_lengths,
    host_state,
    one_device,
    time_major_inputs,
    without_padding,
)
from jaxlstm.inference.compiled_engine import CompiledEngine
from jaxlstm.inference.engine import Engine, Stats
from jaxlstm.inference.native_engine import NativeEngine, is_available
from jaxlstm.inference.stream import SPIN, Stream
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LSTMConfig, positive_int
from jaxlstm.layer.params import check_params
from jaxlstm.layer.precision import Precision, as_float_array, require_dtype, resolve


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
    """Return an LSTM for inference, for every shape up to a limit.

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

    Returns:
      A :class:`Runner`. On the native kernel it compiles nothing. Elsewhere it compiles an executable at the
      first call that needs it; ``Runner.warmup`` compiles all of them.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or value.
      RuntimeError: the backend is unavailable.

    >>> runner = jaxlstm.inference.compile(params, config, max_length=64, max_batch=8)  # doctest: +SKIP
    >>> outputs, (h_n, c_n) = runner(inputs)  # doctest: +SKIP
    """
    check_params(params, config)
    resolve(precision)  # also for the native kernel, which ignores it
    dtype = require_dtype("dtype", dtype or as_float_array(*next(iter(params.items()))).dtype)
    settings: dict[str, Any] = {
        "max_length": positive_int("max_length", max_length),
        "max_batch": positive_int("max_batch", max_batch),
        "dtype": dtype,
        "device": one_device(device),
    }
    params = cast_params(params, dtype)
    if is_available(settings["device"], dtype, backend):
        return Runner(NativeEngine(params, config, **settings))
    return Runner(CompiledEngine(params, config, precision=precision, backend=backend, **settings))


class Runner:
    """An LSTM compiled for inference, made by :func:`compile`. Threads may share one.

    Results are NumPy arrays on the host.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.config = engine.config
        self.dtype = engine.dtype
        self.device = engine.device
        self.max_length = engine.max_length
        self.max_batch = engine.max_batch

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
            if self._engine.needs_zero_padding:
                x = without_padding(x, lengths)
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
        return imap(self._engine, sequences, batch_size, order, window, progress)

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
        return self._engine.stats()
