"""The kernels without JAX, against a reference, on this processor and on an emulated aarch64."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import jaxlib
import pytest

from tools.kernel_harness.__main__ import (
    compile_harness,
    compile_kernels_for_aarch64,
    compile_threads_check,
    link_library_for_aarch64,
    missing_for_aarch64,
    run_on_aarch64,
)

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the harness")
needs_emulator = pytest.mark.skipif(missing_for_aarch64() is not None, reason=str(missing_for_aarch64()))
EM_AARCH64 = 183


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


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return compile_kernels_for_aarch64(tmp_path_factory.mktemp("kernels"))


@needs_emulator
def test_random_problems_on_aarch64(kernels: list[Path], tmp_path: Path) -> None:
    finished = run_on_aarch64(tmp_path, kernels, problems=60)
    assert finished.stdout == "60 problems, 0 wrong\n", finished.stderr
    assert finished.returncode == 0


@needs_emulator
def test_library_for_aarch64(kernels: list[Path], tmp_path: Path) -> None:
    include = Path(jaxlib.__file__).parent / "include"
    elf = link_library_for_aarch64(tmp_path, kernels, include).read_bytes()
    assert elf[:4] == b"\x7fELF"
    assert int.from_bytes(elf[18:20], "little") == EM_AARCH64
    assert b"jaxlstm_gradients" in elf
