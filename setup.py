"""Build the native CPU kernel. Without a C++ compiler, the package installs without the kernel.

It also adapts the README to the package index. All other metadata is in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

SOURCES = Path("jaxlstm/kernels/cpu/src")
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
COMMON = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-g0", "-w"]
# kernels.cc is compiled once for each instruction set, and the library selects one at run time.
INSTRUCTION_SETS = {"baseline": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-march=x86-64-v3"]
    INSTRUCTION_SETS["avx512"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
    INSTRUCTION_SETS["avx512_bf16"] = [*INSTRUCTION_SETS["avx512"], "-mavx512bf16"]
# Only Linux lets a process request the AMX registers.
if X86 and sys.platform == "linux":
    INSTRUCTION_SETS["amx"] = [*INSTRUCTION_SETS["avx512_bf16"], "-mamx-tile", "-mamx-bf16"]
    INSTRUCTION_SETS["amx_float16"] = [*INSTRUCTION_SETS["amx"], "-DJAXLSTM_FLOAT16_TILES"]


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
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(chain.from_iterable(pool.map(self.compile_kernels, INSTRUCTION_SETS)))
        objects += self.compiler.compile(
            [str(SOURCES / name) for name in ("ffi.cc", "python.cc", "wait.cc")],
            output_dir=self.build_temp,
            macros=macros,
            include_dirs=include,
            extra_postargs=COMMON,
        )
        path = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.compiler.link_shared_object(
            objects, path, libraries=["pthread"], target_lang="c++", build_temp=self.build_temp
        )

    def compile_kernels(self, instruction_set: str) -> list[str]:
        """Compile ``kernels.cc`` for an instruction set, and return the object files."""
        return self.compiler.compile(
            [str(SOURCES / "kernels.cc")],
            output_dir=os.path.join(self.build_temp, instruction_set),
            macros=[("JAXLSTM_TARGET", instruction_set)],
            extra_postargs=[*COMMON, *INSTRUCTION_SETS[instruction_set]],
        )


def long_description() -> str:
    """Return the README without pictures and relative links, which the package index cannot show."""
    text = Path("README.md").read_text(encoding="utf-8").replace("install '.[", "install 'jaxlstm[")
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
