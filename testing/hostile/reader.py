"""Read files in a separate process under limits, and report each outcome as a line of JSON.

Each input line is {"path": ..., "options": {...}}. A guarantee of docs/safety.md that does not hold is a
*finding*: an exception other than a `CheckpointError` of one line, an import, process, socket or foreign
file, too much memory or time, or too many bytes read. The address space may grow by 64 MiB plus 1.25 times
the file (for a sparse file, its blocks). Time is CPU time in units of this process's own speed, which it
measures when it starts.
"""

import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.programs.acceptance import accept
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.checkpoint import CODES, Checkpoint, CheckpointError, Tensor, read_checkpoint
from jaxlstm_converters.checkpoint.io._make_tensor import Budget
from jaxlstm_converters.checkpoint.io.files import MemoryFile
from jaxlstm_converters.checkpoint.io.storage import ByteReader
from jaxlstm_converters.checkpoint.pickle._run_pickle import run_pickle
from jaxlstm_converters.lstm._find_lstms import find_lstms, survey
from jaxlstm_converters.pt2._read_pt2 import read_programs
from jaxlstm_converters.pt2.example import example_tensors

FORBIDDEN = (*("import", "exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes."),)
# The events of ctypes take the address of an array, in jaxlstm/_shared/aligned.py.
HARMLESS = (
    *("os.listdir", "os.scandir", "os.putenv"),
    *("ctypes.addressof", "ctypes.cdata", "ctypes.cdata/buffer"),
)
# The opcodes of a pickle in bytes that any file may cost, and that a file may cost for each of its bytes.
SPARE_OPCODES = 400_000
MAX_OPCODES = 8_000_000
# Tolerance for other work on the machine, and for files that cost more than their opcodes.
FACTOR = 10
READER = f"jaxlstm_converters{os.sep}"


class BrokenPromiseError(AssertionError):
    """A guarantee of the reader is violated."""


class Watch:
    """An audit hook that lists forbidden events, and a count of the bytes that are read from files."""

    def __init__(self) -> None:
        self.active = False
        self.folder = ""
        self.events: list[str] = []
        self.bytes_read = 0

    def start(self, folder: str) -> None:
        """Start to watch a reader that may open the files in `folder`."""
        self.folder, self.events, self.bytes_read, self.active = folder, [], 0, True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Handle an audit event."""
        if not self.active:
            return
        if event == "open":
            path, flags = str(arguments[0]), arguments[2]
            if flags & (os.O_WRONLY | os.O_RDWR) or not path.startswith(self.folder):
                self.events.append(f"open {arguments}")
        elif event.startswith(FORBIDDEN) and event not in HARMLESS:
            self.events.append(f"{event} {arguments!r}"[:200])

    def count_reads(self) -> None:
        """Count the bytes that os.pread and os.preadv return from now on."""
        pread, preadv = os.pread, os.preadv

        def counted_pread(fd: int, count: int, offset: int) -> bytes:
            part = pread(fd, count, offset)
            self.bytes_read += len(part)
            return part

        def counted_preadv(fd: int, targets: Any, offset: int) -> int:
            count = preadv(fd, targets, offset)
            self.bytes_read += count
            return count

        os.pread, os.preadv = counted_pread, counted_preadv


watch = Watch()


def seconds_per_opcode_byte() -> float:
    """Return the CPU time of the slowest of three runs of a pickle of small opcodes."""
    pickle = b"\x80\x02(" + b"NK\x01\x85J\0\0\1\1" * 20_000 + b"t."
    slowest = 0.0
    for _ in range(3):
        start = time.process_time()
        file = MemoryFile(pickle, "calibration")
        run_pickle(ByteReader(file, 0, file.size), Budget(file.size))
        slowest = max(slowest, time.process_time() - start)
    return slowest / len(pickle)


def limit_memory(size: int) -> None:
    """Let the address space grow by 64 MiB plus 1.25 times the size of a file."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20) + size * 5 // 4, hard))


def size_of(folder: str) -> int:
    """Return the size of the files in a folder, all of which may be read; of sparse files, their blocks."""
    sizes = [file.stat() for file in Path(folder).iterdir() if file.is_file()]
    return sum(s.st_size if s.st_size < 1 << 40 else s.st_blocks * 512 for s in sizes)


def read(path: str, options: dict[str, bool], size: int) -> dict[str, Any]:
    """Return the outcome of one file: its code and stage if it is refused, and else a digest of its tensors.

    Raises:
        BrokenPromiseError: the reader violates a guarantee.
        Exception: any other exception of the reader.
    """
    stage, graphs = "open", []
    try:
        checkpoint = read_checkpoint(path, **options)
        stage = "read"
        arrays = {name: _array(name, tensor) for name, tensor in checkpoint.items()}
        stage = "graph"
        if checkpoint.container == "pt2":
            for file in read_programs(path, **options).values():
                graphs.append(file.graph)
                example_tensors(file.example, file.graph.inputs)
    except CheckpointError as error:
        _require_one_line(error)
        return {"code": error.code, "stage": stage, "line": str(error)}
    watch.active = False
    nbytes = sum(array.nbytes for array in arrays.values())
    # Each byte is read for its checksum and for its content, and again by the reader of programs.
    if watch.bytes_read > 8 * (size + nbytes) + (1 << 20):
        raise BrokenPromiseError(
            f"{watch.bytes_read} bytes are read for {size} bytes and {nbytes} of tensors"
        )
    _search(checkpoint)
    result = {"container": checkpoint.container, "nbytes": nbytes, "warnings": len(checkpoint.warnings)}
    if graphs:
        result["program"] = next(filter(None, map(_acceptance, graphs)), "")
    return {"code": None, "names": list(arrays)[:8], "digest": digest(arrays), **result}


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of the names, dtypes, shapes and bytes of arrays."""
    made = hashlib.sha256()
    for name, array in arrays.items():
        made.update(f"{name!r} {array.dtype.name} {array.shape}".encode())
        made.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return made.hexdigest()


def _array(name: str, tensor: Tensor) -> np.ndarray:
    array = np.asarray(tensor)
    if (array.shape, array.dtype, array.nbytes) != (tensor.shape, tensor.dtype, tensor.nbytes):
        raise BrokenPromiseError(f"{name!r} is declared as {tensor} and is {array.dtype} {array.shape}")
    if not (array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative):
        raise BrokenPromiseError(f"{name!r} is not a plain array")
    return array


def _require_one_line(error: CheckpointError) -> None:
    line = str(error)
    if error.code not in CODES or "\n" in line or len(line) > 2_000:
        raise BrokenPromiseError(f"the error is not one line: {error.code} {line[:200]!r}") from error


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


def _acceptance(graph: Any) -> str:
    """Return the error code of a graph that cannot run, or ""."""
    try:
        accept(graph)
    except ProgramError as error:
        return error.code
    return ""


def outcome(path: str, options: dict[str, bool], per_byte: float) -> dict[str, Any]:
    """Return the outcome of one file, with a description as "finding" if a guarantee does not hold."""
    folder = os.path.realpath(os.path.dirname(path))
    size = size_of(folder)
    limit_memory(size)
    limit = FACTOR * per_byte * (SPARE_OPCODES + min(size, MAX_OPCODES) + size / 25)
    # A process that hangs is killed.
    signal.setitimer(signal.ITIMER_PROF, 2 * limit)
    start = time.process_time()
    watch.start(folder)
    try:
        result = read(path, options, size)
    # Any exception is a finding.
    except Exception as error:
        watch.active = False
        result = {"code": None, "finding": _describe(error)}
    watch.active = False
    seconds = time.process_time() - start
    if watch.events:
        result["finding"] = f"forbidden: {watch.events[0]}"
    elif seconds > limit:
        result["finding"] = f"took {seconds:.1f} s for {size} bytes, more than {limit:.1f} s"
    return result


def _describe(error: Exception) -> str:
    """Describe an error by its type and its location in the reader, equal for all files that cause it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if READER in frame.filename] or frames
    last = inside[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"


def main() -> None:
    """Serve requests until the input ends."""
    warnings.simplefilter("error")
    # A warning of torch about arguments, raised by find_lstms.
    warnings.filterwarnings("ignore", "dropout=.* has no effect")
    per_byte = seconds_per_opcode_byte()
    watch.count_reads()
    sys.addaudithook(watch)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(outcome(job["path"], job["options"], per_byte)), flush=True)


if __name__ == "__main__":
    main()
