"""Python processes that import the code under test; time and peak memory of a whole process.

A child starts as a copy of its parent, and the peak of its resident memory starts there. So a small process,
which imports neither JAX nor torch nor NumPy, starts the one to measure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


def python_environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """Return the environment of a child process with this process's import path.

    The child sees several CPU devices if ``devices`` is larger than one.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    if devices > 1:
        count = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    return environment | variables


def run_python(*arguments: object, devices: int = 1, **variables: str) -> str:
    """Run Python with these arguments and environment variables. Return its standard output."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=python_environment(devices, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ROOT = Path(__file__).parents[1]


class ProcessCost(NamedTuple):
    """Elapsed time and peak memory of one process."""

    seconds: float
    peak_bytes: int


def process_cost(arguments: Sequence[str]) -> ProcessCost:
    """Run Python in the root of the repository, from start to exit. Raise RuntimeError if it fails."""
    script = "import sys; from testing.processes import measure; print(*measure(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments} failed")
    seconds, peak_bytes = done.stdout.split()
    return ProcessCost(float(seconds), int(peak_bytes))


def measure(arguments: Sequence[str]) -> ProcessCost:
    """Run Python as a child of this process. Raise RuntimeError if it fails."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=writes_bytecode())
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"exit status {child.returncode}")
    return ProcessCost(seconds, used.ru_maxrss * 1024)


def writes_bytecode() -> dict[str, str]:
    """Return an environment in which a first run writes the bytecode that installed packages have."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
