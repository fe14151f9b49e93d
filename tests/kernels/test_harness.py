"""10,000 random problems through the kernels without JAX, against a naive implementation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernels.sanitize import build


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to build the harness with")
def test_ten_thousand_problems(tmp_path: Path) -> None:
    done = subprocess.run(
        [build(tmp_path, ["-O2"]), "10000", "1", "8"], capture_output=True, text=True
    )
    assert done.stdout.endswith("10000 problems, 0 wrong\n")
    assert done.returncode == 0
