"""The sdist and the wheel, installed in clean virtual environments with and without a C++ compiler."""

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
# Runs in the new environment and prints info(), whether "auto" selects the kernel, and its error.
SCRIPT = """
import json, jax, jaxlstm
config = jaxlstm.LSTMConfig(5, 70, bidirectional=True)
params = jaxlstm.init_params(jax.random.key(0), config)
x = jax.random.normal(jax.random.key(1), (9, 6, 5))
run = jax.jit(lambda backend: jaxlstm.lstm(params, x, config=config, backend=backend)[0], static_argnums=0)
error = float(abs(run("auto") - run("scan")).max())
selected = "jaxlstm_forward" in run.lower("auto").as_text()
print(json.dumps({**jaxlstm.kernels.info(), "error": error, "selected": selected, "file": jaxlstm.__file__}))
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)])
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def run(command: list[str], **options: Any) -> str:
    """Run a command that must succeed, and return its standard output."""
    finished = subprocess.run(command, capture_output=True, text=True, **options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def install_and_run(folder: Path, package: Path, path: str) -> dict[str, Any]:
    """Install a package in a new environment with the given PATH, and return the output of SCRIPT."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin/python")
    excluded = ("PYTHON", "JAX", "CC", "CXX")
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(excluded)}
    environment = {**inherited, "PATH": path}
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*install, str(package)], env=environment, cwd=folder)
    output = json.loads(run([python, "-c", SCRIPT], env=environment, cwd=folder))
    assert output["file"].startswith(str(folder))
    assert output["error"] < 1e-6
    return output


def test_contents(distributions: tuple[Path, Path]) -> None:
    """The sdist has the C++ sources; the wheel has the library instead, and no tests."""
    sdist, wheel = distributions
    sources = {path.name for path in (ROOT / "jaxlstm/kernels/cpu/src").iterdir()}
    with tarfile.open(sdist) as archive:
        names = {Path(name).name for name in archive.getnames() if "/cpu/src/" in name}
    assert names == sources
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert any(name.startswith("jaxlstm/kernels/cpu/_native") for name in names)
    assert not any(name.endswith((".cc", ".h")) for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"jaxlstm", "jaxlstm_converters"}


def test_wheel_without_compiler(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    output = install_and_run(tmp_path, distributions[1], path="")
    assert output["native"]
    assert output["selected"]


def test_sdist_with_compiler(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    output = install_and_run(tmp_path, distributions[0], path=os.environ["PATH"])
    assert output["native"]
    assert output["selected"]


def test_sdist_without_compiler(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """The installation succeeds, the plain scan runs, and info() gives the reason."""
    output = install_and_run(tmp_path, distributions[0], path="")
    assert not output["native"]
    assert not output["selected"]
    assert output["reason"].startswith("not built: no C++ compiler was found")
