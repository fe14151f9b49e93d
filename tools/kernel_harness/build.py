"""Compile the harness: random problems for the native kernel, in a program without Python and XLA."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "jaxlstm/kernels/cpu/src"
CPU_FLAGS = Path("/proc/cpuinfo")
OPTIONS = ["-std=c++17", "-w", "-fno-math-errno", "-fno-trapping-math"]
X86 = platform.machine().lower() in ("x86_64", "amd64")

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
