"""The native kernel on random problems, in a program without Python and XLA, compared with a reference.

``python -m tools.kernel_harness [problems]`` solves the problems on 1 to 8 threads under AddressSanitizer
with UndefinedBehaviorSanitizer, and then under ThreadSanitizer. The environment variable ``CXX`` selects the
compiler. The exit status is nonzero if a run fails.

A test runs the kernel for aarch64 in QEMU. It needs a cross compiler and QEMU's user mode: on Debian, the
packages g++-aarch64-linux-gnu and qemu-user.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "jaxlstm/kernels/cpu/src"
CPU_FLAGS = Path("/proc/cpuinfo")
OPTIONS = ["-std=c++17", "-w", "-fno-math-errno", "-fno-trapping-math", f"-I{SOURCES}"]
AMX = ["-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
BASELINE: dict[str, list[str]] = {"baseline": []}
ON_X86 = {
    **BASELINE,
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4"],
    "avx512_bf16": ["-march=x86-64-v4", "-mavx512bf16"],
    "amx": AMX,
    "amx_float16": [*AMX, "-DJAXLSTM_FLOAT16_TILES"],
}
"""Compiler options of each instruction set."""

AARCH64, EMULATOR = ["aarch64-linux-gnu-g++", "-O3", "-fPIC"], "qemu-aarch64"


def compile_kernels(
    folder: Path, compiler: list[str], instruction_sets: Mapping[str, list[str]] = BASELINE
) -> list[Path]:
    """Compile ``kernels.cc`` once for each instruction set, in parallel."""

    def compile_one(name: str) -> Path:
        target = [*instruction_sets[name], f"-DJAXLSTM_TARGET={name}", "-c", SOURCES / "kernels.cc"]
        return build(folder / f"{name}.o", compiler, target)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(compile_one, instruction_sets))


def build(path: Path, compiler: list[str], arguments: Iterable[str | Path]) -> Path:
    """Run the compiler with the options that all builds share; return the path of the output."""
    subprocess.run([*compiler, *OPTIONS, *arguments, "-o", path, "-lpthread"], check=True)
    return path


def link(path: Path, compiler: list[str], kernels: Iterable[Path]) -> Path:
    """Link compiled kernels with the harness."""
    return build(path, compiler, [HERE / "harness.cc", SOURCES / "wait.cc", *kernels])


def compile_harness(folder: Path, compiler: list[str]) -> Path:
    """Compile the harness for this machine, with every instruction set of its architecture.

    Without AMX hardware, ``amx_in_software.h`` emulates its instructions.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86:
        compiler = [*compiler, "-DJAXLSTM_X86", "-DJAXLSTM_AMX"]
    if not CPU_FLAGS.exists() or " amx_bf16" not in CPU_FLAGS.read_text():
        compiler = [*compiler, "-include", str(HERE / "amx_in_software.h")]
    kernels = compile_kernels(folder, compiler, ON_X86 if is_x86 else BASELINE)
    return link(folder / "harness", compiler, kernels)


def missing_for_aarch64() -> str | None:
    """Return the first tool that is not installed, or None."""
    return next((f"no {tool}" for tool in (AARCH64[0], EMULATOR) if shutil.which(tool) is None), None)


def run_on_aarch64(folder: Path, kernels: Iterable[Path], problems: int) -> subprocess.CompletedProcess[str]:
    """Run the harness, linked without shared libraries, in the emulator, with seed 0 and up to 8 threads."""
    harness = link(folder / "harness", [*AARCH64, "-static"], kernels)
    return subprocess.run([EMULATOR, str(harness), str(problems), "0", "8"], capture_output=True, text=True)


def sanitize(problems: int) -> int:
    """Build and run the harness with each sanitizer."""
    # GCC aligns AddressSanitizer's fake stack frames to 32 bytes, but vectors need 64.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    for sanitizer in ("address,undefined", "thread"):
        compiler = [os.environ.get("CXX", "g++"), "-g", "-O1", f"-fsanitize={sanitizer}"]
        compiler += [] if sanitizer == "thread" else ["-fno-sanitize-recover=all"]
        with tempfile.TemporaryDirectory() as folder:
            harness = compile_harness(Path(folder), compiler)
            print(f"{sanitizer} sanitizer:", end=" ", flush=True)
            finished = subprocess.run([harness, str(problems), "0", "8"], env=environment)
        if finished.returncode:
            return finished.returncode
    return 0


if __name__ == "__main__":
    sys.exit(sanitize(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
