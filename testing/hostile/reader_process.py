"""A client for the process that reads hostile files under limits."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from testing.checkpoints.seed import seeds
from testing.hostile.mutation import Mutation
from testing.hostile.reader import digest
from testing.processes import python_environment

COMMAND = (sys.executable, "-m", "testing.hostile.reader")


class ReaderProcess:
    """A process that reads files in a working directory, as a context; it is restarted after a death."""

    def __init__(self, folder: Path, command: Sequence[str] = COMMAND) -> None:
        self.folder = folder
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    def ask(self, path: Path, options: dict[str, bool]) -> dict[str, Any]:
        """Return the outcome of one file."""
        if self._process is None:
            self._process = self._start()
            self._warm_up()
        return self._ask(path, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _ask(self, path: Path, options: dict[str, bool]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"path": str(path), "options": options}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if line:
            return json.loads(line)
        self._stop()
        return {"code": None, "finding": f"the process ends with status {process.returncode}"}

    def _start(self) -> subprocess.Popen[str]:
        # More threads would reserve address space.
        environment = python_environment(OPENBLAS_NUM_THREADS="1")
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, text=True, cwd=self.folder, env=environment
        )

    def _warm_up(self) -> None:
        """Read valid files of every format, so that modules imported on first use are loaded."""
        for seed in seeds():
            self._ask(seed.write(self.folder / seed.name), {})


def assert_outcome(result: dict[str, Any], expected: Mutation) -> None:
    """Assert that a file was refused or read as expected, and that all guarantees hold."""
    assert "finding" not in result, result["finding"]
    if expected.codes:
        assert result["code"] in expected.codes.split(), result
        assert (result["stage"] == "read") == expected.at_read
        return
    assert result["code"] is None, result["line"]
    assert result["digest"] == digest(expected.tensors), (
        f"expected {list(expected.tensors)[:8]}, got {result['names']}"
    )
    assert (result["warnings"] > 0) == expected.warns
