"""Read a range of mutated files in a separate process and report the outcome of each.

    python -m tools.fuzz.child SEED START COUNT FOLDER ONLY

Any outcome except tensors or a `CheckpointError` within the limits is a finding. Findings and counts are
printed as lines of JSON. `FOLDER/progress` holds the index of the current file, so that the parent can
attribute the death of this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.programs.acceptance import accept
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.checkpoint import CODES, Checkpoint, CheckpointError, read_checkpoint
from jaxlstm_converters.lstm._find_lstms import find_lstms, survey
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.hostile import reader
from tools.fuzz.mutate import Mutant, mutant
from tools.fuzz.seeds import seeds

# CPU seconds allowed in addition to the time for opcodes and bytes.
SECONDS = 1.0
# CPU seconds after which the process is killed.
HANG = 20.0
# Number of files between two lines of counts.
REPORT = 500
SOURCE = f"jaxlstm_converters{os.sep}"


class BrokenPromiseError(AssertionError):
    """A guarantee of the reader is violated."""


def outcome(case: Mutant, path: Path) -> str:
    """Return the error code of a refused file, or the container of a file that was read.

    Raises:
        BrokenPromiseError: the reader violates a guarantee.
        Exception: any other exception of the reader.
    """
    reader.watching = True
    try:
        checkpoint = read_checkpoint(path, check_crc=case.check_crc)
        read = sum(_materialised(checkpoint, name) for name in checkpoint)
    except CheckpointError as error:
        _require_one_line(error)
        return error.code
    finally:
        reader.watching = False
    _search(checkpoint)
    if checkpoint.container == "pt2":
        return _read_program(case, path)
    return f"{checkpoint.container} of {'no' if not read else 'some'} bytes"


def _read_program(case: Mutant, path: Path) -> str:
    """Read the graph of a program, and plan its execution."""
    reader.watching = True
    try:
        graph, *_ = read_pt2(path, check_crc=case.check_crc)
    except CheckpointError as error:
        _require_one_line(error)
        return f"pt2 without a graph: {error.code}"
    finally:
        reader.watching = False
    try:
        accept(graph)
    except ProgramError as error:
        return f"pt2 without a program: {error.code}"
    return "pt2 of a program"


def _require_one_line(error: CheckpointError) -> None:
    line = str(error)
    if error.code not in CODES or "\n" in line or len(line) > 2_000:
        raise BrokenPromiseError(f"the error is not one line: {error.code} {line[:200]!r}") from error


def _materialised(checkpoint: Checkpoint, name: str) -> int:
    """Read one tensor; return its size in bytes."""
    tensor = checkpoint[name]
    array = np.asarray(tensor)
    if (array.shape, array.dtype, array.nbytes) != (tensor.shape, tensor.dtype, tensor.nbytes):
        raise BrokenPromiseError(f"{name!r} is declared as {tensor} and is {array.dtype} {array.shape}")
    if not (array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative):
        raise BrokenPromiseError(f"{name!r} is not a plain array")
    return array.nbytes


def _search(checkpoint: Checkpoint) -> None:
    """Require that `find_lstms` raises its documented error exactly for incomplete LSTMs."""
    broken = survey(checkpoint).broken
    try:
        find_lstms(checkpoint)
    except ValueError as error:
        if str(error) not in broken.values():
            raise
    else:
        if broken:
            raise BrokenPromiseError(f"find_lstms accepts incomplete LSTMs: {broken}")


def read_and_classify(case: Mutant, folder: Path) -> tuple[str, str | None]:
    """Return the outcome of a file, and a description if it is a finding."""
    path = case.write(folder)
    size = sum(map(len, case.files.values()))
    reader.limit_memory(size)
    reader.violations.clear()
    signal.setitimer(signal.ITIMER_PROF, HANG)
    start = time.process_time()
    finding = None
    try:
        result = outcome(case, path)
    # The fuzzer looks for any exception.
    except Exception as error:
        reader.watching = False
        result, finding = "finding", _signature(error)
    seconds = time.process_time() - start
    if seconds > SECONDS + size / 4e6:
        finding = f"{seconds:.1f} s for {size} bytes"
    if reader.violations:
        finding = f"forbidden: {reader.violations[0]}"
    return result, finding


def _signature(error: Exception) -> str:
    """Describe an error by its type and its location in the reader, equal for all files that cause it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if SOURCE in frame.filename] or frames
    last = inside[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"


def main(seed: int, start: int, count: int, folder: Path, only: str = "") -> None:
    """Read files `start` to `start + count`."""
    warnings.simplefilter("error")
    # A warning of torch about arguments, raised by find_lstms.
    warnings.filterwarnings("ignore", "dropout=.* has no effect")
    # pickletools parses input that has been mutated before.
    warnings.filterwarnings("ignore", module="pickletools")
    # Warm up: load modules that are imported on first use.
    for origin in seeds():
        read_and_classify(Mutant(origin.name, origin.files, origin.opened, True), folder)
    reader.allowed = os.path.realpath(folder)
    sys.addaudithook(reader.watch)
    progress = os.open(folder / "progress", os.O_WRONLY | os.O_CREAT)
    counts: Counter[str] = Counter()
    for index in range(start, start + count):
        os.pwrite(progress, b"%20d" % index, 0)
        result, finding = read_and_classify(mutant(seed, index, only), folder)
        counts[result] += 1
        if finding is not None:
            _print({"index": index, "finding": finding})
        if index % REPORT == REPORT - 1 or index == start + count - 1:
            _print({"counts": counts})
            counts.clear()


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
