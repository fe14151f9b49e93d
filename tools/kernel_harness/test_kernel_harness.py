"""The kernels without JAX, against a reference, on this processor and on an emulated aarch64."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import jaxlib
import pytest

from tools.kernel_harness import __main__ as harness

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the harness")
needs_emulator = pytest.mark.skipif(
    harness.missing_for_aarch64() is not None, reason=str(harness.missing_for_aarch64())
)
EM_AARCH64 = 183


@pytest.mark.slow
@needs_compiler
def test_random_problems(tmp_path: Path) -> None:
    program = harness.compile_harness(tmp_path, ["g++", "-O2"])
    finished = subprocess.run([program, "10000", "1", "8"], capture_output=True, text=True)
    assert (finished.stdout.splitlines()[-1], finished.returncode) == ("10000 problems, 0 wrong", 0)


@needs_emulator
def test_aarch64(tmp_path: Path) -> None:
    """Random problems in the emulator, and the library, linked as setup.py does."""
    kernels = harness.compile_kernels(tmp_path, harness.AARCH64)
    finished = harness.run_on_aarch64(tmp_path, kernels, problems=60)
    assert (finished.stdout, finished.returncode) == ("60 problems, 0 wrong\n", 0), finished.stderr
    shared = ["-shared", "-fvisibility=hidden", f"-I{Path(jaxlib.__file__).parent / 'include'}"]
    sources = [path for path in harness.SOURCES.glob("*.cc") if path.name != "kernels.cc"]
    elf = harness.build(tmp_path / "_native.so", harness.AARCH64, [*shared, *sources, *kernels]).read_bytes()
    assert (elf[:4], int.from_bytes(elf[18:20], "little")) == (b"\x7fELF", EM_AARCH64)
    assert b"jaxlstm_gradients" in elf
