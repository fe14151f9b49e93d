"""Read files in a separate process under limits and report each outcome as a line of JSON.

Each input line is {"path": ..., "options": {...}}. While a file is read, the address space may grow by
64 MiB plus 1.25 times the file (for a sparse file, its blocks), and an audit hook records every import,
call, process, socket and file that the reader must not use.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from jaxlstm_converters.pt2._read_pt2 import read_pt2

FORBIDDEN = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes.")
HARMLESS = ("os.listdir", "os.scandir", "os.putenv")

violations: list[str] = []
watching = False
allowed = ""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not watching:
        return
    if event == "open":
        path, flags = str(arguments[0]), arguments[2]
        if flags & (os.O_WRONLY | os.O_RDWR) or not path.startswith(allowed):
            violations.append(f"open {arguments}")
    elif event.startswith(FORBIDDEN) and event not in HARMLESS:
        violations.append(f"{event} {arguments!r}"[:200])


def read(path: str, options: dict[str, bool]) -> dict[str, Any]:
    """Return the outcome of one file; `stage` is the stage at which an error occurred."""
    stage = "open"
    try:
        checkpoint = read_checkpoint(path, **options)
        stage = "read"
        arrays = {name: np.asarray(tensor) for name, tensor in checkpoint.items()}
        stage = "open"
        if checkpoint.container == "pt2":
            read_pt2(path, **options)
    except CheckpointError as error:
        return {"code": error.code, "stage": stage, "line": str(error)}
    # Reported to the parent, which fails the test.
    except Exception as error:
        return {"code": type(error).__name__, "stage": stage, "line": repr(error)[:500]}
    tensors = {
        name: [array.dtype.name, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for name, array in arrays.items()
    }
    return {"code": None, "tensors": tensors, "warnings": checkpoint.warnings}


def limit_memory(size: int) -> None:
    """Let the address space grow by 64 MiB plus 1.25 times the size of a file."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20) + size * 5 // 4, hard))


def limit(path: str) -> float:
    """Set the memory limit for a file; return the limit in seconds."""
    try:
        size = os.stat(path).st_blocks * 512
    except OSError:
        size = 0
    limit_memory(size)
    # Opcodes are scanned at about 4 MB/s.
    return 1.0 + min(size, 8e6) / 4e6 + size / 100e6


def main() -> None:
    """Serve requests until the input ends."""
    global watching, allowed
    sys.addaudithook(watch)
    for line in sys.stdin:
        job = json.loads(line)
        seconds = limit(job["path"])
        allowed = os.path.realpath(os.path.dirname(job["path"]))
        violations.clear()
        start = time.process_time()
        watching = True
        result = read(job["path"], job["options"])
        watching = False
        result["seconds"] = time.process_time() - start
        result["limit"] = seconds
        result["violations"] = list(violations)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
