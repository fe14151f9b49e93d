"""Builds the native CPU kernel, if it can: without a C++ compiler the package installs without it.

Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

SOURCES = Path("jaxlstm/kernels/cpu/src")
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
COMMON = [
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-g0",
    "-w",
]
# The same source once for each: the best that the processor has is chosen when it is loaded.
INSTRUCTION_SETS = {"baseline": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-march=x86-64-v3"]
    INSTRUCTION_SETS["avx512"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
if X86 and sys.platform == "linux":  # elsewhere a process cannot ask for the registers
    TILES = ["-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
    INSTRUCTION_SETS["amx"] = [*INSTRUCTION_SETS["avx512"], *TILES]


class BuildKernel(build_ext):
    """One library of objects that are compiled with different options."""

    def build_extension(self, ext: Extension) -> None:
        """Compile each source for each instruction set, and link them."""
        if os.name == "nt":
            raise CCompilerError("the kernel is written for GCC and Clang")
        found = find_spec("jaxlib")
        if found is None or not found.submodule_search_locations:
            raise CCompilerError("jaxlib, which has the headers, is not installed")
        include = [os.path.join(found.submodule_search_locations[0], "include")]
        macros = [("JAXLSTM_X86", "1")] if X86 else []
        macros += [("JAXLSTM_AMX", "1")] if "amx" in INSTRUCTION_SETS else []
        objects = []
        for name, options in INSTRUCTION_SETS.items():
            objects += self.compiler.compile(
                [str(SOURCES / "kernels.cc")],
                output_dir=os.path.join(self.build_temp, name),
                macros=[("JAXLSTM_TARGET", name)],
                extra_postargs=[*COMMON, *options],
            )
        objects += self.compiler.compile(
            [str(SOURCES / name) for name in ("ffi.cc", "wait.cc")],
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


setup(
    # optional: a build that fails is reported, and the package goes without
    ext_modules=[Extension("jaxlstm.kernels.cpu._native", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernel},
)
