"""Build the native CPU kernel. Without a C++ compiler, the package installs without the kernel.

It also adapts the README to the package index. All other metadata is in pyproject.toml.
"""

import contextlib
import os
import platform
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

SOURCES = Path("jaxlstm/kernels/cpu/src")
Macros = list[tuple[str, str]]
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
COMMON = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-g0", "-w"]
# `make sanitize` builds the kernel for its tests under sanitizers.
SANITIZERS = os.environ.get("JAXLSTM_SANITIZERS", "")
SANITIZED = [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=undefined", "-O1"] if SANITIZERS else []
COMMON += SANITIZED
AVX512 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
BFLOAT16 = [*AVX512, "-mavx512bf16", "-DJAXLSTM_DOUBLE_OF=avx512"]
# kernels.cc is compiled once for each instruction set, and the library selects one at run time.
# JAXLSTM_..._OF names another instruction set whose passes for a dtype are the same.
INSTRUCTION_SETS = {"baseline": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-march=x86-64-v3"]
    INSTRUCTION_SETS["avx512"] = AVX512
    INSTRUCTION_SETS["avx512_bf16"] = [*BFLOAT16, "-DJAXLSTM_FLOAT_OF=avx512"]
# Only Linux lets a process request the AMX registers.
if X86 and sys.platform == "linux":
    INSTRUCTION_SETS["amx"] = [*BFLOAT16, "-mamx-tile", "-mamx-bf16"]
    float16 = ["-DJAXLSTM_FLOAT16_TILES", "-DJAXLSTM_BFLOAT16_OF=amx"]
    INSTRUCTION_SETS["amx_float16"] = [*INSTRUCTION_SETS["amx"], *float16]


class BuildKernel(build_ext):
    """Build one library from objects compiled with different options."""

    def build_extension(self, ext: Extension) -> None:
        """Compile ``kernels.cc`` for each instruction set, and link the library."""
        if os.name == "nt":
            raise CCompilerError("the native kernel requires GCC or Clang")
        spec = find_spec("jaxlib")
        if spec is None or not spec.submodule_search_locations:
            raise CCompilerError("the native kernel requires jaxlib for XLA's headers")
        include = [os.path.join(spec.submodule_search_locations[0], "include")]
        macros = [("JAXLSTM_X86", "1")] if X86 else []
        macros += [("JAXLSTM_AMX", "1")] if "amx" in INSTRUCTION_SETS else []
        units = [
            ("kernels.cc", [("JAXLSTM_TARGET", name)], flags) for name, flags in INSTRUCTION_SETS.items()
        ]
        units += [(name, macros, []) for name in ("ffi.cc", "python.cc", "wait.cc")]
        started = time.monotonic()
        say("compiling the CPU kernel, about a minute of two cores ...")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # The largest come first.
            built = list(pool.map(lambda unit: self.compile_unit(*unit, include), reversed(units)))
        say(f"the CPU kernel is compiled ({time.monotonic() - started:.0f} s)")
        path = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.compiler.link_shared_object(
            built, path, libraries=["pthread"], target_lang="c++", build_temp=self.build_temp
        )

    def compile_unit(self, source: str, macros: Macros, flags: list[str], include: list[str]) -> str:
        """Compile a file, and return the object's path, which differs between instruction sets."""
        folder = os.path.join(self.build_temp, *(value for _, value in macros))
        options: Any = {"macros": macros, "include_dirs": include, "extra_postargs": [*COMMON, *flags]}
        (made,) = self.compiler.compile([str(SOURCES / source)], output_dir=folder, **options)
        return made


def say(text: str) -> None:
    """Print a line, also to the terminal of a user whose pip hides the output of builds."""
    print(f"jaxlstm: {text}", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
            terminal.write(f"jaxlstm: {text}\n")


def long_description() -> str:
    """Return the README without pictures and relative links, which the package index cannot show."""
    text = Path("README.md").read_text(encoding="utf-8").replace("  # in a clone of the repository", "")
    text = text.replace("install '.[", "install 'jaxlstm[")
    text = re.sub(r"!\[[^\]]*\]\(([^)]*)\)", r"(`\1`)", text)
    text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
    return (
        text.rstrip()
        + "\n\nThe pages and files named here are in the source distribution, in `docs/` and `examples/`.\n"
    )


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    # An optional extension that fails to build is skipped with a warning.
    ext_modules=[Extension("jaxlstm.kernels.cpu._native", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernel},
)
