"""Python processes that import the code under test; peak memory of a whole process.

A child starts as a copy of its parent, and the peak of its resident memory starts there. So a small process,
which imports neither JAX nor torch nor NumPy, starts the one to measure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


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


def peak_memory(arguments: Sequence[str]) -> int:
    """Run Python in the root of the repository; return the bytes of its peak memory. Raise if it fails."""
    script = "import sys; from testing.processes import measure; print(measure(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout)


def measure(arguments: Sequence[str]) -> int:
    """Return the bytes of the peak memory of Python as a child of this process. Raise if it fails."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"exit status {child.returncode}")
    return used.ru_maxrss * 1024
