"""Many sequences of many lengths: sorted, batched, run ahead of the host, and put back in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm.cell import LSTMState
from jaxlstm.inference.arguments import host_array, positive

if TYPE_CHECKING:
    from jaxlstm.inference.runner import Runner

ORDERS = ("length", "given")
WINDOW = 64  # batches that are sorted together, and held, if the caller does not say
IN_FLIGHT = 2  # batches at a time, each packed, computed and unpacked by one thread

Result = tuple[np.ndarray, LSTMState]


def run_many(
    runner: Runner,
    sequences: Iterable[Any],
    batch_size: int,
    order: str,
    window: int | None,
    progress: bool,
) -> Iterator[Result]:
    """What ``Runner.imap`` does; see there. Arguments are checked at once, sequences when they are read."""
    batch_size = positive("batch_size", batch_size)
    if batch_size > runner.max_batch:
        raise ValueError(
            f"batch_size is {batch_size}, above the Runner's max_batch {runner.max_batch}"
        )
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
    held = WINDOW * batch_size if window is None else positive("window", window)
    return _windows(runner, sequences, batch_size, order, held, progress)


def _windows(
    runner: Runner,
    sequences: Iterable[Any],
    batch_size: int,
    order: str,
    held: int,
    progress: bool,
) -> Iterator[Result]:
    from jaxlstm._shared.progress import progress_bar

    total = len(sequences) if hasattr(sequences, "__len__") else 0  # type: ignore[arg-type]
    numbered = enumerate(sequences)
    done = 0
    with progress_bar(progress) as bar:
        while block := list(itertools.islice(numbered, held)):
            arrays = [_sequence(runner, number, value) for number, value in block]
            for result in _one_window(runner, arrays, batch_size, order):
                yield result
                done += 1
                bar(done, total or done, "sequences")


def _one_window(
    runner: Runner, arrays: list[np.ndarray], batch_size: int, order: str
) -> Iterator[Result]:
    """The results of a window, in order, a few batches at a time."""
    indices = list(range(len(arrays)))
    if order == "length":
        indices.sort(key=lambda index: -len(arrays[index]))  # the largest first: memory fails early
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    results: dict[int, Result] = {}
    with runner._module.callers(IN_FLIGHT), ThreadPoolExecutor(IN_FLIGHT) as workers:
        found = workers.map(lambda rows: _run(runner, [arrays[index] for index in rows]), batches)
        for rows, batch in zip(batches, found, strict=True):
            results.update(zip(rows, batch, strict=True))
    for index in range(len(arrays)):
        yield results.pop(index)


def _run(runner: Runner, batch: list[np.ndarray]) -> list[Result]:
    """The results of one batch: copies, so that one result does not keep its whole batch alive."""
    lengths = np.array([len(array) for array in batch], np.int32)
    x = np.zeros((lengths.max(), len(batch), runner.config.input_size), runner.dtype)
    for row, array in enumerate(batch):
        x[: len(array), row] = array
    outputs, h_n, c_n = (np.asarray(leaf) for leaf in runner._dispatch(x, lengths, None))
    states = [LSTMState(h_n[:, row].copy(), c_n[:, row].copy()) for row in range(len(batch))]  # type: ignore[arg-type]
    return [(outputs[: len(array), row].copy(), states[row]) for row, array in enumerate(batch)]


def _sequence(runner: Runner, number: int, value: Any) -> np.ndarray:
    array = host_array(f"sequence {number}", value, runner.dtype)
    wanted = runner.config.input_size
    if array.ndim != 2 or array.shape[1] != wanted or not 1 <= len(array) <= runner.max_length:
        raise ValueError(
            f"sequence {number} must have shape (time, {wanted}) with time from 1 to {runner.max_length}, "
            f"got {array.shape}"
        )
    return array
