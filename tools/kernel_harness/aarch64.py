"""Run the native kernel for aarch64 in QEMU: ``python -m tools.kernel_harness.aarch64 [problems]``.

This needs a cross compiler and QEMU's user mode: on Debian, the packages g++-aarch64-linux-gnu and qemu-user.
The exit status is 0 if every random problem agrees with a naive implementation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tools.kernel_harness import build

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
OPTIONS = ["-O3", "-fPIC"]


def missing() -> str | None:
    """Return the first tool that is not installed, or None."""
    return next((f"no {tool}" for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None), None)


def compile_kernels(folder: Path) -> list[Path]:
    """Compile the kernels for NEON, the only instruction set on aarch64."""
    return build.compile_kernels(folder, COMPILER, OPTIONS, build.BASELINE)


def link_harness(folder: Path, kernels: Iterable[Path]) -> Path:
    """Link the harness without shared libraries."""
    return build.link_harness(folder, COMPILER, [*OPTIONS, "-static"], kernels)


def link_library(folder: Path, kernels: Iterable[Path], include: Path) -> Path:
    """Link the library as setup.py does. ``include`` holds XLA's headers."""
    path = folder / "_native.so"
    shared = ["-shared", "-fvisibility=hidden", f"-I{include}"]
    sources = [path for path in build.SOURCES.glob("*.cc") if path.name != "kernels.cc"]
    build.run_compiler(COMPILER, *OPTIONS, *shared, *sources, *kernels, "-o", path)
    return path


def run(harness: Path, problems: int) -> subprocess.CompletedProcess[str]:
    """Run the harness in the emulator, with seed 0 and up to 8 threads."""
    command = [EMULATOR, str(harness), str(problems), "0", "8"]
    return subprocess.run(command, capture_output=True, text=True)


def main() -> int:
    """Build the harness and run it."""
    problems = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    if reason := missing():
        print(f"{reason}: install g++-aarch64-linux-gnu and qemu-user", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        kernels = compile_kernels(Path(folder))
        finished = run(link_harness(Path(folder), kernels), problems)
    print(finished.stdout, finished.stderr, sep="", end="")
    return finished.returncode


if __name__ == "__main__":
    sys.exit(main())
