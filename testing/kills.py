"""Kill a program that writes a file at each of its steps, and examine the file that it leaves.

``python -m testing.kills WRITER PATH`` prints one line of JSON for each step: its name and the state of
the file after a kill there: "old", "new" or "torn". The steps are opening a file for writing, the halves of
each write, fsync and rename. Every kill happens in a fork of a process that has imported the libraries.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm import LSTMConfig, save
from testing.processes import run_python
from testing.saved_params import random_params

CONFIG = LSTMConfig(2, 3)


def write_in_place(path: Path, seed: int) -> None:
    """Write a file without a temporary file, which a kill can tear."""
    with open(path, "wb") as file:
        for array in random_params(CONFIG, np.float32, seed).values():
            file.write(array.tobytes())
        os.fsync(file.fileno())


def writer(name: str) -> Callable[[Path, int], None]:
    if name == "in place":
        return write_in_place
    return lambda path, seed: save(path, random_params(CONFIG, np.float32, seed), CONFIG, format=name)


def kills(name: str, path: Path) -> list[tuple[str, str]]:
    """Return (step, state of the file) for each kill in a child process."""
    return [tuple(json.loads(line)) for line in run_python("-m", __name__, name, path).splitlines()]


def _kill_at_step(last: int, report: int, write: Callable[[], None]) -> None:
    """Run ``write`` in this process, and end it by SIGKILL at step number ``last``."""
    steps = 0

    def step(name: str) -> None:
        nonlocal steps
        steps += 1
        if steps == last:
            os.write(report, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*arguments: Any, **options: Any) -> Any:
            step(f"before {name}")
            result = function(*arguments, **options)
            step(f"after {name}")
            return result

        return hooked

    class File(io.FileIO):
        """An unbuffered file, so that each half of a write reaches the system."""

        def write(self, data: Any) -> int:
            view = memoryview(data).cast("B")
            super().write(view[: len(view) // 2])
            step("amid write")
            super().write(view[len(view) // 2 :])
            step("after write")
            return len(view)

    def open_hooked(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wxa+"):
            return hook("open", File)(path, mode)
        return plain_open(path, mode, *arguments, **options)

    plain_open = builtins.open
    builtins.open = open_hooked  # type: ignore[assignment]
    os.fsync = hook("fsync", os.fsync)
    os.replace = hook("replace", os.replace)
    write()


def main(name: str, path: Path) -> None:
    write = writer(name)
    write(path, 1)
    new = path.read_bytes()
    write(path, 0)
    old = path.read_bytes()
    number, finished = 0, False
    while not finished:
        number += 1
        path.write_bytes(old)
        reader, report = os.pipe()
        if not (child := os.fork()):
            _kill_at_step(number, report, lambda: write(path, 1))
            os._exit(0)
        os.close(report)
        with open(reader, encoding="utf-8") as pipe:
            step = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        finished = status == 0
        left = {old: "old", new: "new"}.get(path.read_bytes(), "torn")
        print(json.dumps([step or "end", left]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
