"""examples/test_my_port.py in a separate pytest process, without and with its planted mistake."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from testing.processes import python_environment

ROOT = Path(__file__).parents[2]

# tests/check/test_pytest_plugin.py has quicker tests of the fixture.
pytestmark = pytest.mark.slow


def outcome(folder: Path, bug: str) -> str:
    """Copy the file and its settings to ``folder``, run pytest there and return its output."""
    for file in ("test_my_port.py", "pytest.ini"):
        shutil.copy(ROOT / "examples" / file, folder)
    installed = metadata.entry_points(group="pytest11", name="jaxlstm")
    plugin = () if installed else ("-p", "jaxlstm.check.pytest_plugin")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", "."],
        cwd=folder,
        env=python_environment(MY_BUG=bug),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_report_names_the_mistake_on_one_screen(tmp_path: Path) -> None:
    report = outcome(tmp_path, "1")
    assert "1 failed, 1 passed" in report
    assert "in which the gates are read in the order i, f, o, g" in report
    assert "in i*g, unit" in report
    assert "array(" not in report.lower()
    assert len(report.splitlines()) < 40


def test_all_pass_without_the_mistake(tmp_path: Path) -> None:
    assert "2 passed" in outcome(tmp_path, "")
