"""A client for the child process that reads hostile files under limits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from testing.checkpoints.assemble import BOXES, archive, mapping
from testing.checkpoints.case import Case
from testing.hostile import program_files
from testing.processes import python_environment


class Child:
    """A process that reads files; it is restarted after a death."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def ask(self, path: Path, options: dict[str, bool]) -> dict[str, Any]:
        """Return the outcome of one file."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"path": str(path), "options": options}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the reader died of {path} with status {self._process.wait()}"
        return json.loads(line)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate(timeout=60)

    def _start(self) -> subprocess.Popen[str]:
        # More threads would reserve address space.
        environment = python_environment(OPENBLAS_NUM_THREADS="1")
        command = ["timeout", "600", sys.executable, "-m", "testing.hostile.reader"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment,
        )
        self._process = process
        self._warm_up()
        return process

    def _warm_up(self) -> None:
        """Read valid files, so that modules imported on first use are loaded."""
        for index, make in enumerate(BOXES):
            box = make()
            path = self.folder / f"warm-{index}"
            path.write_bytes(box.file(mapping(w=box.weight())))
            assert self.ask(path, {})["code"] is None
        path = self.folder / "warm-pt2"
        path.write_bytes(archive(program_files.members()))
        assert self.ask(path, {})["code"] is None


def assert_outcome(result: dict[str, Any], case: Case) -> None:
    """Assert that a file was refused or read as expected, without side effects and within the limits."""
    assert not result["violations"]
    # Timing is meaningless under `make coverage`.
    in_time = result["seconds"] <= result["limit"] or "COVERAGE_PROCESS_CONFIG" in os.environ
    assert in_time, result
    if case.codes:
        assert result["code"] in case.codes, result
        assert result["stage"] == ("read" if case.at_read else "open")
        assert "\n" not in result["line"]
        return
    assert result["code"] is None, result
    assert result["tensors"] == {
        name: [a.dtype.name, list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]
        for name, a in case.tensors.items()
    }
    assert bool(result["warnings"]) == case.warns
