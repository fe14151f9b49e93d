"""A resumable job: results in parts on the disk, which survive a kill at any moment.

While the job runs, the folder ``OUT.parts`` beside the output OUT holds the finished parts. Each part has the
results of the next few sequences, or of the next steps of one long sequence. It is written under a temporary
name, flushed and renamed. The contents of a part depend only on the input, so a resumed job writes the same
bytes as an uninterrupted one. At the end the parts are assembled into the output and removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.atomic import write_atomically
from jaxlstm._shared.progress import Progress
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.cli.run.sequences import Sequences
from jaxlstm_converters.checkpoint import read_checkpoint

PART_STEPS = 1 << 16
"""A part ends with the sequence that brings it to this number of time steps."""

Part = dict[str, np.ndarray]
Block = list[tuple[str, np.ndarray]]
"""Names and arrays of the sequences of one part."""
Compute = Callable[[Block], Iterable[Part]]
"""Returns the results of each sequence of a block, by name."""

# Everything that a job puts into its folder, including temporary files that a kill leaves there.
_OWN_FILE = re.compile(
    r"lock|job\.json|part-\d{15}\.safetensors|whole\.(npy|npz|parquet|safetensors)"
    r"|\.(job\.json|part-\d{15}\.safetensors|whole\.safetensors)\.[0-9a-f]{16}\.tmp"
)


def parts_folder(output: Path) -> Path:
    """Return the folder that holds the parts of an output until it is complete."""
    return output.with_name(output.name + ".parts")


def input_identity(source: Path) -> list[Any]:
    """Return path, size and modification time of an input; hashing would read it a second time."""
    status = source.stat()
    return [str(source.resolve()), status.st_size, status.st_mtime_ns]


class Job:
    """The parts of one job.

    Args:
      output: the file that is written at the end.
      identity: everything on which the results depend, as JSON. Parts of another identity are refused.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        self.output = output
        self.folder = parts_folder(output)
        self._identity = json.dumps(identity, indent=2, sort_keys=True)
        self._identity_file = self.folder / "job.json"

    @contextlib.contextmanager
    def opened(self) -> Iterator[Job]:
        """Create or reopen the folder, and lock it for this process.

        The folder is removed on success, and on failure if it has no finished part.

        Raises:
          ValueError: the folder holds parts of another job or other files, or another process has locked it.
        """
        self.folder.mkdir(exist_ok=True)
        foreign = [name for name in os.listdir(self.folder) if not _OWN_FILE.fullmatch(name)]
        if foreign:
            raise ValueError(
                f"{self.folder} is needed for unfinished results, but it holds {foreign[0]}; move that file "
                "or choose another -o"
            )
        with open(self.folder / "lock", "w", encoding="utf-8") as lock:
            _lock(lock, self.output)
            is_new = not self._identity_file.exists()
            if not is_new and self._identity_file.read_text(encoding="utf-8") != self._identity:
                raise ValueError(
                    f"{self.folder} has parts of a run with another checkpoint, input or options; "
                    "finish that run, or remove the folder"
                )
            try:
                if is_new:
                    for stale in self.folder.glob("part-*"):
                        stale.unlink()
                    write_atomically(self._identity_file, [self._identity.encode()])
                yield self
            except KeyboardInterrupt as interrupt:
                if self._path(0).exists():
                    interrupt.add_note(f"the same command continues from the finished parts in {self.folder}")
                raise
            finally:
                if not self._path(0).exists():
                    self._remove()
            self._remove()

    def _remove(self) -> None:
        # Without the identity file, parts that remain after a kill are stale.
        self._identity_file.unlink(missing_ok=True)
        for name in filter(_OWN_FILE.fullmatch, os.listdir(self.folder)):
            with contextlib.suppress(OSError):  # Windows does not remove the open lock.
                (self.folder / name).unlink()
        with contextlib.suppress(OSError):  # a file of somebody else appeared
            self.folder.rmdir()

    def parts(self) -> Iterator[Any]:
        """Yield the finished parts in order, as checkpoints whose arrays are read on access."""
        start = 0
        while (path := self._path(start)).exists():
            part = read_checkpoint(path)
            yield part
            start = int(part.metadata["stop"])

    def add(self, start: int, stop: int, part: Part, names: list[str]) -> None:
        """Write a part, flushed to the disk."""
        metadata = {"start": str(start), "stop": str(stop), "names": json.dumps(names)}
        write_atomically(self._path(start), safetensors_bytes(part, metadata))

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:015d}.safetensors"


def run_sequences(job: Job, compute: Compute, sequences: Sequences, progress: Progress) -> None:
    """Compute the missing parts of many sequences.

    Sequence number K has the tensors ``K.LEAF``, for each result LEAF that ``compute`` returns.
    """
    start = max((int(part.metadata["stop"]) for part in job.parts()), default=0)
    if start > len(sequences):
        raise ValueError(f"{job.folder} has parts of {start} sequences, and the input has {len(sequences)}")
    for block in _blocks(sequences.read(start)):
        part: Part = {}
        progress(start, len(sequences), "sequences")
        for index, results in enumerate(compute(block), start):
            progress(index + 1, len(sequences), "sequences")
            part.update((f"{index}.{leaf}", array) for leaf, array in results.items())
        stop = start + len(block)
        job.add(start, stop, part, [name for name, _ in block])
        start = stop


def _blocks(named: Iterable[tuple[str, np.ndarray]]) -> Iterator[Block]:
    """Yield the sequences of each part."""
    block, steps = [], 0
    for name, array in named:
        block.append((name, array))
        steps += len(array) if array.ndim else 0
        if steps >= PART_STEPS:
            yield block
            block, steps = [], 0
    if block:
        yield block


def _lock(file: Any, output: Path) -> None:
    """Lock an open file. The system releases the lock when this process ends."""
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process is writing {output}") from None
