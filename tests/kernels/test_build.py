"""``setup.py`` compiles the native kernel again if, and only if, the library would change."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from setuptools import Distribution

ROOT = Path(__file__).parents[2]
FOLDER = Path("jaxlstm/kernels/cpu")
COMPILER = """#!{python}
import os, sys
if "--version" in sys.argv:
    print("a compiler", os.environ.get("ITS_VERSION", "1"))
else:
    with open("compiled", "a") as log:
        log.write(sys.argv[-1] + "\\n")
    os.execvp("g++", ["g++", *sys.argv[1:]])
"""

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernel")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the build with sources that take no time to compile."""
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    sources = tmp_path / FOLDER / "src"
    sources.mkdir(parents=True)
    for name in ("kernels", "ffi", "python", "wait"):
        (sources / f"{name}.cc").write_text("")
    set_jaxlib(tmp_path, "1.0")
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER.format(python=sys.executable))
    compiler.chmod(0o755)
    return tmp_path


def set_jaxlib(project: Path, version: str) -> None:
    (project / "jaxlib").mkdir(exist_ok=True)
    (project / "jaxlib/__init__.py").touch()
    metadata = project / "jaxlib-1.dist-info/METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: jaxlib\nVersion: {version}\n")


def run_build(project: Path, compiler: str) -> str:
    """Build in place, in a new temporary folder as pip does, and return what the build printed."""
    environment = {**os.environ, "CC": compiler, "CXX": compiler, "PYTHONPATH": str(project)}
    temporary = project / "temporary"
    folders = ["--build-temp", str(temporary), "--build-lib", str(temporary)]
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", *folders]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(temporary, ignore_errors=True)
    return done.stderr


def compiles(project: Path) -> bool:
    """Build, and return True if the compiler ran."""
    log = project / "compiled"
    log.unlink(missing_ok=True)
    run_build(project, str(project / "compiler"))
    return log.exists()


def libraries(project: Path) -> list[Path]:
    return list((project / FOLDER).glob("_native*.so"))


@needs_compiler
def test_a_second_build_compiles_nothing(project: Path) -> None:
    assert compiles(project)
    (library,) = libraries(project)
    before = library.stat()
    assert not compiles(project)
    assert library.stat() == before
    (project / FOLDER / "src/vector.h").write_text("// a header\n")
    assert compiles(project)


def test_build_without_a_compiler(project: Path) -> None:
    assert "no-such-compiler" in run_build(project, "no-such-compiler")
    assert not libraries(project)


@pytest.fixture
def build(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names that setup.py defines, which runs in the project."""
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    return runpy.run_path("setup.py")


def test_what_a_library_depends_on(
    build: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(*options: str) -> str:
        command = build["BuildKernel"](Distribution())
        compiler = [str(project / "compiler"), *options]
        names = ("compiler_so", "compiler_so_cxx", "linker_so", "linker_so_cxx")
        command.compiler = SimpleNamespace(**dict.fromkeys(names, compiler))
        return command.fingerprint_of_build()

    known = [fingerprint()]
    assert known == [fingerprint()]
    known.append(fingerprint("-march=native"))
    monkeypatch.setenv("ITS_VERSION", "2")
    known.append(fingerprint())
    set_jaxlib(project, "1.1")
    known.append(fingerprint())
    with (project / "setup.py").open("a") as file:
        file.write("# other options")
    known.append(fingerprint())
    assert len(set(known)) == len(known)


def test_a_library_that_something_else_wrote(build: dict[str, Any], project: Path) -> None:
    library = project / "_native.so"
    library.write_bytes(b"a library")
    assert not build["_is_current"](library, "fingerprint")
    build["_stamp"](library).write_text(build["_contents_of_stamp"]("fingerprint", library))
    assert build["_is_current"](library, "fingerprint")
    assert not build["_is_current"](library, "another")
    library.write_bytes(b"another library")
    assert not build["_is_current"](library, "fingerprint")
