"""Build the native CPU kernel. Without a C++ compiler, the package installs without the kernel.

It also adapts the README to the package index. All other metadata is in pyproject.toml.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

SOURCES = Path("jaxlstm/kernels/cpu/src")
CACHE = Path("build/kernel")
"""The objects of earlier builds."""
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
        """Compile ``kernels.cc`` for each instruction set if no earlier build did, and link the library."""
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
        built = {self.object_of(*unit): unit for unit in units}
        missing = [path for path in reversed(built) if not path.exists()]  # The largest come first.
        started = time.monotonic()
        if missing:
            say(f"compiling {len(missing)} parts of the CPU kernel, about a minute of two cores ...")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda path: self.compile_unit(path, *built[path], include), missing))
        if missing:
            say(f"the CPU kernel is compiled ({time.monotonic() - started:.0f} s); it is kept in {CACHE}/")
        path = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.compiler.link_shared_object(
            list(map(str, built)), path, libraries=["pthread"], target_lang="c++", build_temp=self.build_temp
        )

    def object_of(self, source: str, macros: Macros, flags: list[str]) -> Path:
        """Return the path of an object, which differs between sources, options, compilers and headers."""
        commands = [self.compiler.compiler_so, getattr(self.compiler, "compiler_so_cxx", None)]
        command = next(filter(None, reversed(commands)))
        try:
            compiler = subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise CCompilerError(f"the native kernel requires a C++ compiler: {error}") from error
        key = hashlib.sha256(compiler)
        key.update(repr((commands, source, macros, COMMON, flags, sys.version, version("jaxlib"))).encode())
        for path in sorted(SOURCES.iterdir()):
            key.update(path.read_bytes())
        return CACHE / key.hexdigest()[:16] / f"{Path(source).stem}.o"

    def compile_unit(
        self, path: Path, source: str, macros: Macros, flags: list[str], include: list[str]
    ) -> None:
        """Compile a file. The object appears when it is complete."""
        work = f"{path.parent}-{os.getpid()}"
        options: Any = {"macros": macros, "include_dirs": include, "extra_postargs": [*COMMON, *flags]}
        (made,) = self.compiler.compile([str(SOURCES / source)], output_dir=work, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, path)
        shutil.rmtree(work)


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
