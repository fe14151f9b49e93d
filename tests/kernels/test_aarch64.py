"""The kernels compiled for aarch64, run in an emulator."""

from __future__ import annotations

from pathlib import Path

import jaxlib
import pytest

from tools.kernel_harness import aarch64

pytestmark = pytest.mark.skipif(aarch64.missing() is not None, reason=str(aarch64.missing()))
EM_AARCH64 = 183


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return aarch64.compile_kernels(tmp_path_factory.mktemp("kernels"))


def test_random_problems(kernels: list[Path], tmp_path: Path) -> None:
    finished = aarch64.run(aarch64.link_harness(tmp_path, kernels), problems=60)
    assert finished.stdout == "60 problems, 0 wrong\n", finished.stderr
    assert finished.returncode == 0


def test_library_compiles(kernels: list[Path], tmp_path: Path) -> None:
    include = Path(jaxlib.__file__).parent / "include"
    elf = aarch64.link_library(tmp_path, kernels, include).read_bytes()
    assert elf[:4] == b"\x7fELF"
    assert int.from_bytes(elf[18:20], "little") == EM_AARCH64
    assert b"jaxlstm_forward_and_differentiate" in elf
