"""A long run over a file, in parts that are on the disk for good: killed at any moment, it goes on there.

Beside the output OUT lies the folder ``OUT.parts`` while the run lasts. Each part holds the results of the
next few sequences, or steps of one long sequence, and is written under another name, flushed and renamed.
What a part holds depends on the input alone, so that a run that was killed and run again ends with the same
bytes as one that was not. At the end the parts are put together, the output gets its name, and they go.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm.cli.run.sequences import Sequences
from jaxlstm.inference.runner import Runner
from jaxlstm.precision import DTYPES

PART_STEPS = 1 << 16
"""A part ends with the sequence that brings it to this many time steps."""

Part = dict[str, np.ndarray]
Progress = Callable[[int, int, str], None]


class Job:
    """The parts of one run.

    Args:
      output: the file that will be written at the end.
      identity: what the run depends on, as JSON has it: parts of another identity are not mixed in.

    Raises:
      ValueError: parts of another run lie there, or another process is at this one.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        self._identity = json.dumps(identity, indent=2, sort_keys=True)
        self._card = self.folder / "job.json"

    @contextlib.contextmanager
    def opened(self) -> Iterator[Job]:
        """The folder, made or found, and held by this process alone.

        It goes if all went well, and if nothing was finished.
        """
        from jaxlstm._shared.atomic import write_atomically

        if not self.output.parent.is_dir():
            raise FileNotFoundError(f"{self.output}: its folder does not exist")
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / "lock", "w", encoding="utf-8") as lock:
            _hold(lock, self.output)
            if not self._card.exists():
                for stale in self.folder.glob("part-*"):
                    stale.unlink()
                write_atomically(self._card, [self._identity.encode()])
            elif self._card.read_text(encoding="utf-8") != self._identity:
                raise ValueError(
                    f"{self.folder} holds the parts of a run with another checkpoint, input or options: "
                    "finish that one, or remove the folder"
                )
            try:
                yield self
            finally:
                if not self._path(0).exists():
                    self._remove()
            self._remove()

    def _remove(self) -> None:
        self._card.unlink(missing_ok=True)  # first: what is left after a kill here counts as stale
        shutil.rmtree(self.folder, ignore_errors=True)

    def parts(self) -> Iterator[Any]:
        """The finished parts in order, as ``read_checkpoint`` opens them: arrays are read when asked for."""
        from jaxlstm_converters.checkpoint import read_checkpoint

        start = 0
        while (path := self._path(start)).exists():
            part = read_checkpoint(path)
            yield part
            start = int(part.metadata["stop"])

    def add(self, start: int, stop: int, part: Part, names: list[str]) -> None:
        """Put a part on the disk, for good when this returns."""
        from jaxlstm._shared.atomic import write_atomically
        from jaxlstm._shared.safetensors import safetensors_bytes

        metadata = {"start": str(start), "stop": str(stop), "names": json.dumps(names)}
        write_atomically(self._path(start), safetensors_bytes(part, metadata))

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:015d}.safetensors"


def run_sequences(
    job: Job, runner: Runner, sequences: Sequences, batch_size: int, cast: bool, progress: Progress
) -> None:
    """The parts that are still missing of many sequences: tensors ``K.outputs``, ``K.h_n``, ``K.c_n``."""
    start = _stop(job)
    if start > len(sequences):
        raise ValueError(f"{job.folder} has {start} sequences, the input {len(sequences)}")
    for block in _blocks(sequences.read(start)):
        progress(start, len(sequences), "sequences")
        arrays = [_fitting(name, array, runner, cast) for name, array in block]
        results = runner.imap(arrays, batch_size, progress=False)
        part: Part = {}
        for index, (outputs, state) in enumerate(results, start):
            part[f"{index}.outputs"] = outputs
            part[f"{index}.h_n"], part[f"{index}.c_n"] = (np.asarray(leaf) for leaf in state)
        stop = start + len(block)
        job.add(start, stop, part, [name for name, _ in block])
        start = stop


def run_long(
    job: Job, runner: Runner, sequence: np.ndarray, cast: bool, progress: Progress
) -> None:
    """The parts that are still missing of one sequence (time, features), which may be a memory map.

    Each holds ``outputs`` of its steps and the state ``h_n``, ``c_n`` after them.
    """
    stream = runner.stream(1)
    start = 0
    for part in job.parts():
        start += part["outputs"].shape[0]
        state = part["h_n"], part["c_n"]
        stream.state = tuple(np.array(leaf)[:, None] for leaf in state)
    for begin in range(start, len(sequence), PART_STEPS):
        progress(begin, len(sequence), "steps")
        piece = np.array(sequence[begin : begin + PART_STEPS])
        outputs = stream(_cast("the input", piece, runner, cast))
        h_n, c_n = (np.asarray(leaf)[:, 0] for leaf in stream.state)
        part = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
        job.add(begin, begin + len(piece), part, ["outputs"])


def _stop(job: Job) -> int:
    """The number of the first sequence that no part holds."""
    return max((int(part.metadata["stop"]) for part in job.parts()), default=0)


def _blocks(named: Iterable[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    block, steps = [], 0
    for name, array in named:
        block.append((name, array))
        steps += len(array) if array.ndim else 0
        if steps >= PART_STEPS:
            yield block
            block, steps = [], 0
    if block:
        yield block


def _fitting(name: str, array: np.ndarray, runner: Runner, cast: bool) -> np.ndarray:
    array = _cast(f"sequence {name}", array, runner, cast)
    if len(array) > runner.max_length:
        raise ValueError(
            f"sequence {name} has {len(array)} steps, above the {runner.max_length} of one among many; "
            "run it alone, as a .npy file of (time, features)"
        )
    return array


def _cast(name: str, array: np.ndarray, runner: Runner, cast: bool) -> np.ndarray:
    wanted = runner.config.input_size
    if array.ndim != 2 or array.shape[1] != wanted or not len(array):
        raise ValueError(f"{name} must have shape (time, {wanted}), got {array.shape}")
    found = array.dtype.newbyteorder("=")
    if not any(jax.numpy.issubdtype(found, kind) for kind in (np.floating, np.integer)):
        raise ValueError(f"{name} must hold real numbers, got {found}")
    if found != runner.dtype and not cast:
        other = f", --dtype {found} runs the LSTM in that" if found in DTYPES else ""
        raise ValueError(
            f"{name} is {found} and the LSTM {runner.dtype}; --cast rounds inputs to it{other}"
        )
    return array.astype(runner.dtype, copy=False)


def _hold(lock: Any, output: Path) -> None:
    """Take the lock, which the system gives back when this process ends, however it ends."""
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process is writing {output} at this moment") from None
