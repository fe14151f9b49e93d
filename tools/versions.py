"""Run the tests against the oldest or the newest releases that pyproject.toml allows.

``python tools/versions.py oldest|newest VENV PYTHON``. Oldest: exactly the lower bounds of the
dependencies and of the extras flax and optax. Newest: the newest releases on the package
index, without torch; tests that need torch are not collected.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "safetensors", "beartype", "jaxtyping", "flatbuffers"]


def lower_bounds(*extras: str) -> list[str]:
    """Return ``name==version`` for each requirement ``name>=version`` of the package and of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    bounds = [re.sub(r">=([^,;]+).*", r"==\1", requirement) for requirement in requirements]
    # Pin jaxlib to the version of jax: jax itself accepts newer ones.
    return bounds + [bound.replace("jax", "jaxlib") for bound in bounds if bound.startswith("jax==")]


def main(which: str, venv: str, python: str) -> int:
    folder = ROOT / venv
    binary = folder / "bin" / "python"
    if not binary.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [binary, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if which == "oldest":
        packages = [*lower_bounds("flax", "optax"), "torch", "expecttest", "onnx"]
    else:
        packages = ["--upgrade", "jax", "flax", "optax", "numpy"]
    subprocess.run([*pip, *packages, *TOOLS], check=True)
    subprocess.run([*pip, "--no-deps", "-e", ROOT], check=True)
    subprocess.run([binary, "-m", "pip", "list", "--format=freeze"], check=True)
    command = [binary, "-m", "pytest", "-q", "-n", "auto", "-m", "not slow and not network"]
    return subprocess.run([*command, *sys.argv[4:]], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
