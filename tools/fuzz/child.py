"""Reads a run of mutated files in a process of its own, and says what came of each.

    python -m tools.fuzz.child SEED START COUNT FOLDER

Whatever is neither a result nor a `CheckpointError` within the limits is a finding. Findings and
counts are lines of JSON; `FOLDER/progress` holds the index that is being read, so that a death of
this process has a culprit.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm_converters.checkpoint import CODES, Checkpoint, CheckpointError, read_checkpoint
from jaxlstm_converters.lstm._find_lstms import find_lstms, survey
from tests.support.hostile import reader
from tools.fuzz.mutate import Mutant, mutant
from tools.fuzz.seeds import seeds

MEMORY = 64 << 20  # beside 1.25 times the file
SECONDS = 1.0  # of this process, beside what opcodes and bytes take
HANG = 20.0  # seconds after which the process is killed
REPORT = 500  # files between two lines of counts
SOURCE = str(Path("jaxlstm_converters", "checkpoint"))


class BrokenPromiseError(AssertionError):
    """A promise of the reader that does not hold."""


def outcome(case: Mutant, path: Path) -> str:
    """The code of the refusal, or the container of what was read.

    Raises:
        Exception: whatever else the reader raises; `BrokenPromiseError` for a promise that it breaks.
    """
    reader.watching = True
    try:
        checkpoint = read_checkpoint(path, check_crc=case.check_crc)
        read = sum(_materialised(checkpoint, name) for name in checkpoint)
    except CheckpointError as error:
        line = str(error)
        if error.code not in CODES or "\n" in line or len(line) > 2_000:
            raise BrokenPromiseError(
                f"the error is not one line: {error.code} {line[:200]!r}"
            ) from error
        return error.code
    finally:
        reader.watching = False
    _search(checkpoint)
    return f"{checkpoint.container} of {'no' if not read else 'some'} bytes"


def _materialised(checkpoint: Checkpoint, name: str) -> int:
    """Read one tensor; gives its bytes."""
    tensor = checkpoint[name]
    array = np.asarray(tensor)
    if (array.shape, array.dtype, array.nbytes) != (tensor.shape, tensor.dtype, tensor.nbytes):
        raise BrokenPromiseError(
            f"{name!r} is said to be {tensor} and is {array.dtype} {array.shape}"
        )
    if not (array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative):
        raise BrokenPromiseError(f"{name!r} is no plain array")
    return array.nbytes


def _search(checkpoint: Checkpoint) -> None:
    """The documented error of `find_lstms` comes for an LSTM that is not whole, and only then."""
    broken = survey(checkpoint).broken
    try:
        find_lstms(checkpoint)
    except ValueError as error:
        if str(error) not in broken.values():
            raise
    else:
        if broken:
            raise BrokenPromiseError(f"find_lstms takes what is not whole: {broken}")


def judge(case: Mutant, folder: Path) -> tuple[str, str | None]:
    """What came of a file, and the finding if it is one."""
    path = case.write(folder)
    size = sum(map(len, case.files.values()))
    _limit_memory(size)
    reader.violations.clear()
    signal.setitimer(signal.ITIMER_PROF, HANG)
    start = time.process_time()
    finding = None
    try:
        told = outcome(case, path)
    except Exception as error:  # what is raised is what the fuzzer looks for
        reader.watching = False
        told, finding = "finding", _signature(error)
    seconds = time.process_time() - start
    if seconds > SECONDS + size / 4e6:
        finding = f"{seconds:.1f} s for {size} bytes"
    if reader.violations:
        finding = f"forbidden: {reader.violations[0]}"
    return told, finding


def _signature(error: Exception) -> str:
    """The error, and where in the reader it came from: one for all files that have it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if SOURCE in frame.filename] or frames
    last = inside[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"


def _limit_memory(size: int) -> None:
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY + size * 5 // 4, hard))


def main(seed: int, start: int, count: int, folder: Path) -> None:
    """Read files `start` to `start + count`."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "dropout=.* has no effect")  # torch's own, of find_lstms
    warnings.filterwarnings("ignore", module="pickletools")  # it parses what was mutated twice
    for origin in seeds():  # so that what is loaded on first use is loaded
        judge(Mutant(origin.name, origin.files, origin.opened, True), folder)
    reader.allowed = os.path.realpath(folder)
    sys.addaudithook(reader.watch)
    progress = os.open(folder / "progress", os.O_WRONLY | os.O_CREAT)
    counts: Counter[str] = Counter()
    for index in range(start, start + count):
        os.pwrite(progress, b"%20d" % index, 0)
        told, finding = judge(mutant(seed, index), folder)
        counts[told] += 1
        if finding is not None:
            _tell({"index": index, "finding": finding})
        if index % REPORT == REPORT - 1 or index == start + count - 1:
            _tell({"counts": counts})
            counts.clear()


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
