"""The kernels for aarch64, in an emulator."""

from __future__ import annotations

from pathlib import Path

import jaxlib
import pytest

from tests.kernels import aarch64

pytestmark = pytest.mark.skipif(
    aarch64.missing() is not None, reason=f"{aarch64.missing()} to build and run them with"
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aarch64.compile_kernels(tmp_path_factory.mktemp("kernels"))


def test_random_problems_agree_with_a_naive_implementation(kernels: Path, tmp_path: Path) -> None:
    done = aarch64.run(aarch64.link_harness(tmp_path, kernels), problems=60)
    assert done.stdout == "60 problems, 0 wrong\n", done.stderr
    assert done.returncode == 0


def test_the_library_compiles(kernels: Path, tmp_path: Path) -> None:
    include = Path(jaxlib.__file__).parent / "include"
    elf = aarch64.link_library(tmp_path, kernels, include).read_bytes()
    assert elf[:4] == b"\x7fELF"
    assert int.from_bytes(elf[18:20], "little") == 183  # EM_AARCH64
    assert b"jaxlstm_forward_and_differentiate" in elf
