"""Compiles the kernels for aarch64 and runs their harness in an emulator: ``aarch64.py [problems]``.

It takes a cross compiler and QEMU's user mode, in Debian the packages g++-aarch64-linux-gnu and qemu-user.
The exit status is the harness's: 0 if each random problem agrees with a naive implementation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "jaxlstm/kernels/cpu/src"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
OPTIONS = ["-std=c++17", "-O3", "-w", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]


def missing() -> str | None:
    """What is not installed, or None."""
    return next((f"no {tool}" for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None), None)


def compile_kernels(folder: Path) -> Path:
    """The object of the only instruction set there."""
    target, path = ["-DJAXLSTM_TARGET=baseline"], folder / "kernels.o"
    _compile(*target, "-c", SOURCES / "kernels.cc", "-o", path)
    return path


def link_harness(folder: Path, kernels: Path) -> Path:
    """All but the door to XLA, as one program without shared libraries."""
    path = folder / "harness"
    _compile("-static", *_others("ffi.cc"), kernels, "-o", path)
    return path


def link_library(folder: Path, kernels: Path, include: Path) -> Path:
    """All but the harness, as setup.py builds it; ``include`` has XLA's headers."""
    path = folder / "_native.so"
    shared = ["-shared", "-fvisibility=hidden", f"-I{include}"]
    _compile(*shared, *_others("harness.cc"), kernels, "-o", path)
    return path


def _compile(*words: str | Path) -> None:
    subprocess.run([COMPILER, *OPTIONS, *words], check=True)


def _others(left_out: str) -> list[Path]:
    return [s for s in sorted(SOURCES.glob("*.cc")) if s.name not in ("kernels.cc", left_out)]


def run(
    harness: Path, problems: int, seed: int = 0, threads: int = 8
) -> subprocess.CompletedProcess:
    words = [EMULATOR, str(harness), str(problems), str(seed), str(threads)]
    return subprocess.run(words, capture_output=True, text=True)


def main() -> int:
    problems = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    if reason := missing():
        print(f"{reason}: install g++-aarch64-linux-gnu and qemu-user", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        kernels = compile_kernels(Path(folder))
        done = run(link_harness(Path(folder), kernels), problems)
    print(done.stdout, done.stderr, sep="", end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
