"""The work of a job that runs an LSTM: over many sequences, or over one long sequence."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from jaxlstm._shared.progress import Progress
from jaxlstm.cli.run import job
from jaxlstm.inference.runner import Runner
from jaxlstm.layer.precision import DTYPES


def compute_lstm(runner: Runner, batch_size: int, cast: bool) -> job.Compute:
    """Return the computation of ``outputs``, ``h_n`` and ``c_n`` by a runner."""

    def compute(block: job.Block) -> Iterator[job.Part]:
        arrays = [_checked_sequence(name, array, runner, cast) for name, array in block]
        for outputs, state in runner.imap(arrays, batch_size, progress=False):
            h_n, c_n = (np.asarray(leaf) for leaf in state)
            yield {"outputs": outputs, "h_n": h_n, "c_n": c_n}

    return compute


def run_long(current: job.Job, runner: Runner, sequence: np.ndarray, cast: bool, progress: Progress) -> None:
    """Compute the missing parts of one sequence (time, features), which may be a memory map.

    Each part has the ``outputs`` of its steps, and the state ``h_n`` and ``c_n`` after them.
    """
    stream = runner.stream(1)
    start = 0
    for part in current.parts():
        start += part["outputs"].shape[0]
        state = part["h_n"], part["c_n"]
        stream.state = tuple(np.array(leaf)[:, None] for leaf in state)
    for begin in range(start, len(sequence), job.PART_STEPS):
        progress(begin, len(sequence), "steps")
        piece = np.array(sequence[begin : begin + job.PART_STEPS])
        outputs = stream(_checked_array("the input", piece, runner, cast))
        h_n, c_n = (np.asarray(leaf)[:, 0] for leaf in stream.state)
        part = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
        current.add(begin, begin + len(piece), part, ["outputs"])


def _checked_sequence(name: str, array: np.ndarray, runner: Runner, cast: bool) -> np.ndarray:
    array = _checked_array(f"sequence {name}", array, runner, cast)
    if len(array) > runner.max_length:
        raise ValueError(
            f"sequence {name} has {len(array)} steps, more than the {runner.max_length} of one among "
            "several; run it from a .npy file of shape (time, features)"
        )
    return array


def _checked_array(name: str, array: np.ndarray, runner: Runner, cast: bool) -> np.ndarray:
    """Check the shape and dtype of an array, and cast it if ``cast`` allows it."""
    features = runner.config.input_size
    if array.ndim != 2 or array.shape[1] != features or not len(array):
        raise ValueError(
            f"{name} must have shape (time, {features}) with at least one step, got {array.shape}"
        )
    dtype = array.dtype.newbyteorder("=")
    if not any(jax.numpy.issubdtype(dtype, kind) for kind in (np.floating, np.integer)):
        raise ValueError(f"{name} must hold real numbers, got {dtype}")
    if dtype != runner.dtype and not cast:
        alternative = f", --dtype {dtype} runs the LSTM in {dtype}" if dtype in DTYPES else ""
        raise ValueError(
            f"{name} is {dtype} and the LSTM is {runner.dtype}; --cast rounds the input{alternative}"
        )
    return array.astype(runner.dtype, copy=False)
