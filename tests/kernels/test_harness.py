"""The kernels without JAX, against a naive implementation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.kernel_harness.build import compile_harness, compile_threads_check

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the harness")


@pytest.mark.slow
@needs_compiler
def test_random_problems(tmp_path: Path) -> None:
    harness = compile_harness(tmp_path, "g++", ["-O2"])
    finished = subprocess.run([harness, "10000", "1", "8"], capture_output=True, text=True)
    assert finished.stdout.endswith("10000 problems, 0 wrong\n")
    assert finished.returncode == 0


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="moves threads to one core, as only Linux can")
def test_threads_of_a_call(tmp_path: Path) -> None:
    check = compile_threads_check(tmp_path, "g++")
    finished = subprocess.run([check], capture_output=True, text=True, timeout=60)
    assert (finished.stdout, finished.returncode) == ("", 0)
