"""Builds the kernels' harness with a sanitizer and runs it: ``python tests/kernels/sanitize.py [problems]``.

Random problems on 1 to 8 threads against a naive implementation, and by several calls at the same time on
weights that were packed once: under AddressSanitizer with UndefinedBehaviorSanitizer, and under
ThreadSanitizer. The exit status is that of the first that fails.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "jaxlstm/kernels/cpu/src"
AMX_IN_SOFTWARE = Path(__file__).with_name("amx_in_software.h")
CPU_FLAGS = Path("/proc/cpuinfo")
X86 = platform.machine().lower() in ("x86_64", "amd64")
TARGETS = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4"],
    "amx": ["-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}
SANITIZERS = {"address,undefined": ["-fno-sanitize-recover=all"], "thread": []}


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bfloat16; where it does not, software does."""
    return CPU_FLAGS.exists() and " amx_bf16" in CPU_FLAGS.read_text()


def build(folder: Path, options: list[str]) -> Path:
    """The harness, compiled by ``CXX`` or g++."""
    compiler = os.environ.get("CXX", "g++")
    common = [compiler, "-std=c++17", "-g", "-w", "-fno-math-errno", "-fno-trapping-math", *options]
    if not has_amx():
        common += ["-include", str(AMX_IN_SOFTWARE)]
    targets = TARGETS if X86 else {"baseline": []}
    objects = []
    for name, march in targets.items():
        objects.append(str(folder / f"{name}.o"))
        source = [str(SOURCES / "kernels.cc"), f"-DJAXLSTM_TARGET={name}", "-c", "-o", objects[-1]]
        subprocess.run([*common, *march, *source], check=True)
    macros = ["-DJAXLSTM_X86", "-DJAXLSTM_AMX"] if X86 else []
    harness = folder / "harness"
    shared = [str(SOURCES / name) for name in ("harness.cc", "wait.cc")]
    source = [*shared, *objects, "-o", str(harness), "-lpthread"]
    subprocess.run([*common, *macros, *source], check=True)
    return harness


def main() -> int:
    problems = sys.argv[1] if len(sys.argv) > 1 else "500"
    for sanitizer, options in SANITIZERS.items():
        with tempfile.TemporaryDirectory() as folder:
            harness = build(Path(folder), ["-O1", f"-fsanitize={sanitizer}", *options])
            print(f"{sanitizer} sanitizer:", end=" ", flush=True)
            # GCC puts vectors of 64 bytes into stand-ins for stack frames that it aligns to 32
            environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
            done = subprocess.run([harness, problems, "0", "8"], env=environment)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
