"""The sdist and the wheel in clean virtual environments, with a C++ compiler and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.network]
SCRIPT = """
import json, jax, jaxlstm
config = jaxlstm.LSTMConfig(5, 70, bidirectional=True)
params = jaxlstm.init_params(jax.random.key(0), config)
x = jax.random.normal(jax.random.key(1), (9, 6, 5))
run = jax.jit(lambda backend: jaxlstm.lstm(params, x, config=config, backend=backend)[0], static_argnums=0)
off = float(abs(run("auto") - run("scan")).max())
native = "jaxlstm_forward" in run.lower("auto").as_text()
print(json.dumps({**jaxlstm.kernels.info(), "off": off, "in_the_program": native, "file": jaxlstm.__file__}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)])
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def run(words: list[str], **options: Any) -> str:
    done = subprocess.run(words, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(folder: Path, package: Path, path: str) -> dict[str, Any]:
    """What SCRIPT says in an environment of its own, made with ``path`` as the PATH."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin/python")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JAX", "CC", "CXX"))}
    environment = {**kept, "PATH": path}
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*install, str(package)], env=environment, cwd=folder)
    said = json.loads(run([python, "-c", SCRIPT], env=environment, cwd=folder))
    assert said["file"].startswith(str(folder))
    assert said["off"] < 1e-6
    return said


def test_the_sdist_has_the_sources_and_the_wheel_the_library(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    sources = {path.name for path in (ROOT / "jaxlstm/kernels/cpu/src").iterdir()}
    with tarfile.open(sdist) as archive:
        names = {Path(name).name for name in archive.getnames() if "/cpu/src/" in name}
    assert names == sources
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert any(name.startswith("jaxlstm/kernels/cpu/_native") for name in names)
    assert not any(name.endswith((".cc", ".h")) or name.startswith("tests") for name in names)


def test_the_wheel_needs_no_compiler(built: tuple[Path, Path], tmp_path: Path) -> None:
    said = installed(tmp_path, built[1], path="")
    assert said["native"]
    assert said["in_the_program"]


def test_the_sdist_with_a_compiler(built: tuple[Path, Path], tmp_path: Path) -> None:
    said = installed(tmp_path, built[0], path=os.environ["PATH"])
    assert said["native"]
    assert said["in_the_program"]


def test_the_sdist_without_a_compiler(built: tuple[Path, Path], tmp_path: Path) -> None:
    """The install succeeds, the plain scan runs, and info() says why."""
    said = installed(tmp_path, built[0], path="")
    assert not said["native"]
    assert not said["in_the_program"]
    assert said["reason"].startswith("not built: no C++ compiler was found")
