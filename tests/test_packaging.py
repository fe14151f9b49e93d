"""The metadata agrees with the README and the changelog. `make release-check` builds and installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jaxlstm

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = {"Python": "python", "JAX": "jax", "NumPy": "numpy", "Flax": "flax", "Optax": "optax"}
NAMES |= {"PyTorch": "torch"}
STATEMENT = re.compile(rf"\b({'|'.join(NAMES)}) (\d+(?:\.\d+)+)")


def test_readme_states_the_supported_versions() -> None:
    """The lower bounds of Python, of JAX and NumPy, and of the libraries that a user brings along."""
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(extras[n][0] for n in ("flax", "optax", "torch"))]
    bounds = dict(requirement.split(">=") for requirement in requirements)
    bounds["python"] = PROJECT["requires-python"].removeprefix(">=")
    stated = STATEMENT.findall((ROOT / "README.md").read_text())
    assert {NAMES[name]: version for name, version in stated} == {n: bounds[n] for n in NAMES.values()}
    assert len(stated) == len(NAMES)


def test_other_pages_state_no_supported_versions() -> None:
    for page in [ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        assert not re.search(rf"{STATEMENT.pattern} (or|and) (newer|later)", page.read_text()), page.name


def test_changelog_starts_with_this_version() -> None:
    """A release has a date; a development version has none yet."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    first = re.search(r"^## (.*)$", changelog, re.MULTILINE)
    assert first is not None
    date = "unreleased" if ".dev" in jaxlstm.__version__ else r"\d{4}-\d\d-\d\d"
    assert re.fullmatch(rf"{re.escape(jaxlstm.__version__)} \({date}\)", first[1])


def test_classifiers_include_the_oldest_python() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in PROJECT["classifiers"]
    assert not [classifier for classifier in PROJECT["classifiers"] if classifier.startswith("License ::")]
