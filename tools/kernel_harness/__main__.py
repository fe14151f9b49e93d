"""The native kernel on random problems, in a program without Python and XLA, compared with a reference.

- ``python -m tools.kernel_harness sanitize [problems]`` solves the problems on 1 to 8 threads under
  AddressSanitizer with UndefinedBehaviorSanitizer, and then under ThreadSanitizer. The environment variable
  ``CXX`` selects the compiler.
- ``python -m tools.kernel_harness aarch64 [problems]`` runs the kernel for aarch64 in QEMU. It needs a cross
  compiler and QEMU's user mode: on Debian, the packages g++-aarch64-linux-gnu and qemu-user.

The exit status is nonzero if a run fails.
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
OPTIONS = ["-std=c++17", "-w", "-fno-math-errno", "-fno-trapping-math"]
X86 = platform.machine().lower() in ("x86_64", "amd64")

AMX = ["-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
SANITIZERS = {"address,undefined": ["-fno-sanitize-recover=all"], "thread": []}

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


def has_amx() -> bool:
    """Return True if this processor has AMX's products of bfloat16 tiles."""
    return CPU_FLAGS.exists() and " amx_bf16" in CPU_FLAGS.read_text()


def compile_harness(folder: Path, compiler: str, options: Iterable[str]) -> Path:
    """Compile the harness for this machine, with every instruction set of its architecture.

    Without AMX hardware, ``amx_in_software.h`` emulates its instructions.
    """
    instruction_sets = ON_X86 if X86 else BASELINE
    options = list(options)
    if X86:
        options += ["-DJAXLSTM_X86", "-DJAXLSTM_AMX"]
    if not has_amx():
        options += ["-include", str(HERE / "amx_in_software.h")]
    kernels = compile_kernels(folder, compiler, options, instruction_sets)
    return link_harness(folder, compiler, options, kernels)


def compile_kernels(
    folder: Path, compiler: str, options: Iterable[str], instruction_sets: Mapping[str, list[str]]
) -> list[Path]:
    """Compile ``kernels.cc`` once for each instruction set, in parallel."""

    def compile_one(name: str) -> Path:
        path = folder / f"{name}.o"
        target = [*instruction_sets[name], f"-DJAXLSTM_TARGET={name}"]
        run_compiler(compiler, *options, *target, "-c", SOURCES / "kernels.cc", "-o", path)
        return path

    with ThreadPoolExecutor() as pool:
        return list(pool.map(compile_one, instruction_sets))


def link_harness(folder: Path, compiler: str, options: Iterable[str], kernels: Iterable[Path]) -> Path:
    """Link compiled kernels with ``harness.cc``."""
    path = folder / "harness"
    sources = [f"-I{SOURCES}", HERE / "harness.cc", SOURCES / "wait.cc", *kernels]
    run_compiler(compiler, *options, *sources, "-o", path, "-lpthread")
    return path


def compile_threads_check(folder: Path, compiler: str) -> Path:
    """Compile ``threads.cc``, with the baseline kernels for their limits on threads."""
    path = folder / "threads"
    kernels = compile_kernels(folder, compiler, ["-O2"], BASELINE)
    sources = [HERE / "threads.cc", SOURCES / "wait.cc", *kernels]
    run_compiler(compiler, "-O2", f"-I{SOURCES}", *sources, "-o", path, "-lpthread")
    return path


def run_compiler(compiler: str, *arguments: str | Path) -> None:
    """Run the compiler with the options that all builds share."""
    subprocess.run([compiler, *OPTIONS, *arguments], check=True)


AARCH64_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
AARCH64_OPTIONS = ["-O3", "-fPIC"]


def missing_for_aarch64() -> str | None:
    """Return the first tool that is not installed, or None."""
    return next((f"no {tool}" for tool in (AARCH64_COMPILER, EMULATOR) if shutil.which(tool) is None), None)


def compile_kernels_for_aarch64(folder: Path) -> list[Path]:
    """Compile the kernels for NEON, the only instruction set on aarch64."""
    return compile_kernels(folder, AARCH64_COMPILER, AARCH64_OPTIONS, BASELINE)


def run_on_aarch64(folder: Path, kernels: Iterable[Path], problems: int) -> subprocess.CompletedProcess[str]:
    """Run the harness, linked without shared libraries, in the emulator, with seed 0 and up to 8 threads."""
    harness = link_harness(folder, AARCH64_COMPILER, [*AARCH64_OPTIONS, "-static"], kernels)
    return subprocess.run([EMULATOR, str(harness), str(problems), "0", "8"], capture_output=True, text=True)


def link_library_for_aarch64(folder: Path, kernels: Iterable[Path], include: Path) -> Path:
    """Link the library as setup.py does. ``include`` holds XLA's headers."""
    path = folder / "_native.so"
    shared = ["-shared", "-fvisibility=hidden", f"-I{include}"]
    sources = [path for path in SOURCES.glob("*.cc") if path.name != "kernels.cc"]
    run_compiler(AARCH64_COMPILER, *AARCH64_OPTIONS, *shared, *sources, *kernels, "-o", path)
    return path


def aarch64(problems: int) -> int:
    """Build the harness for aarch64 and run it."""
    if reason := missing_for_aarch64():
        print(f"{reason}: install g++-aarch64-linux-gnu and qemu-user", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        finished = run_on_aarch64(Path(folder), compile_kernels_for_aarch64(Path(folder)), problems)
    print(finished.stdout, finished.stderr, sep="", end="")
    return finished.returncode


def sanitize(problems: int) -> int:
    """Build and run the harness with each sanitizer."""
    compiler = os.environ.get("CXX", "g++")
    # GCC aligns AddressSanitizer's fake stack frames to 32 bytes, but vectors need 64.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    for sanitizer, options in SANITIZERS.items():
        with tempfile.TemporaryDirectory() as folder:
            options = ["-g", "-O1", f"-fsanitize={sanitizer}", *options]
            harness = compile_harness(Path(folder), compiler, options)
            print(f"{sanitizer} sanitizer:", end=" ", flush=True)
            finished = subprocess.run([harness, str(problems), "0", "8"], env=environment)
        if finished.returncode:
            return finished.returncode
    return 0


if __name__ == "__main__":
    command = {"aarch64": aarch64, "sanitize": sanitize}[sys.argv[1]]
    sys.exit(command(int(sys.argv[2]) if len(sys.argv) > 2 else 500))
