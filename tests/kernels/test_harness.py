"""The kernels without JAX, against a naive implementation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.kernel_harness.build import compile_harness


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the harness")
def test_random_problems(tmp_path: Path) -> None:
    harness = compile_harness(tmp_path, "g++", ["-O2"])
    finished = subprocess.run([harness, "10000", "1", "8"], capture_output=True, text=True)
    assert finished.stdout.endswith("10000 problems, 0 wrong\n")
    assert finished.returncode == 0
