"""Python processes that import the code under test, and the memory of this one."""

import os
import subprocess
import sys
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


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds, or 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
