"""``Runner.imap``: many sequences, sorted by length, run in batches and returned in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm._shared.progress import progress_bar
from jaxlstm.inference.arguments import host_array
from jaxlstm.inference.engine import Engine
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import positive_int

ORDERS = ("length", "given")
BATCH_SIZE = 32
"""Default number of sequences in a batch."""
WINDOW = 64
"""Default number of batches that are sorted together."""
IN_FLIGHT = 2
"""Number of batches at a time, if there are as many threads. One thread packs, computes and unpacks each."""

Result = tuple[np.ndarray, LSTMState]
"""Outputs (time, output_size) of one sequence, and its final state."""


def imap(
    engine: Engine,
    sequences: Iterable[Any],
    batch_size: int | None,
    order: str,
    window: int | None,
    progress: bool,
) -> Iterator[Result]:
    """Implement ``Runner.imap``: check the arguments now, and each sequence when it is read."""
    if batch_size is None:
        batch_size = min(BATCH_SIZE, engine.max_batch)
    batch_size = positive_int("batch_size", batch_size)
    if batch_size > engine.max_batch:
        raise ValueError(
            f"batch_size must be at most the Runner's max_batch, {engine.max_batch}; got {batch_size}"
        )
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
    window = WINDOW * batch_size if window is None else positive_int("window", window)

    def results() -> Iterator[Result]:
        total = len(sequences) if hasattr(sequences, "__len__") else 0  # type: ignore[arg-type]
        numbered = enumerate(sequences)
        done = 0
        with progress_bar(progress) as bar:
            while arrays := [_sequence(engine, *item) for item in itertools.islice(numbered, window)]:
                for result in _one_window(engine, arrays, batch_size, order):
                    yield result
                    done += 1
                    bar(done, total or done, "sequences")

    return results()


def _one_window(engine: Engine, arrays: list[np.ndarray], batch_size: int, order: str) -> Iterator[Result]:
    """Yield the results of a window, in order."""
    indices = list(range(len(arrays)))
    if order == "length":
        # The longest sequences run first, so that a lack of memory shows early.
        indices.sort(key=lambda index: -len(arrays[index]))
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    results: dict[int, Result] = {}
    in_flight = min(IN_FLIGHT, engine.threads)
    with engine.concurrent_calls(in_flight), ThreadPoolExecutor(in_flight) as workers:
        computed = workers.map(lambda rows: _run(engine, [arrays[index] for index in rows]), batches)
        for rows, batch in zip(batches, computed, strict=True):
            results.update(zip(rows, batch, strict=True))
    for index in range(len(arrays)):
        yield results.pop(index)


def _run(engine: Engine, batch: list[np.ndarray]) -> list[Result]:
    """Return the results of one batch, as copies: a view would keep the whole batch alive."""
    lengths = np.array([len(array) for array in batch], np.int32)
    x = aligned_zeros((int(lengths.max()), len(batch), engine.config.input_size), engine.dtype)
    for row, array in enumerate(batch):
        x[: len(array), row] = array
    outputs, h_n, c_n = engine.run_batch(x, lengths)
    states = [LSTMState(h_n[:, row].copy(), c_n[:, row].copy()) for row in range(len(batch))]  # type: ignore[arg-type]
    return [(outputs[: len(array), row].copy(), states[row]) for row, array in enumerate(batch)]


def _sequence(engine: Engine, number: int, value: Any) -> np.ndarray:
    # A copy, because an iterator may yield the same buffer again, with the next sequence.
    array = np.array(host_array(f"sequence {number}", value, engine.dtype))
    features = engine.config.input_size
    if array.ndim != 2 or array.shape[1] != features or not 1 <= len(array) <= engine.max_length:
        raise ValueError(
            f"sequence {number} must have shape (time, {features}) with time from 1 to "
            f"{engine.max_length}, got {array.shape}"
        )
    return array
