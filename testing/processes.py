"""Python processes that import the code under test."""

from __future__ import annotations

import os
import subprocess
import sys


def python_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child process with this process's import path."""
    folders = map(os.path.abspath, sys.path)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **variables}


def run_python(*arguments: object, **variables: str) -> str:
    """Run Python with these arguments and environment variables. Return its standard output."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=python_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
