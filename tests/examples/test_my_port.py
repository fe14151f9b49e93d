"""The foreign project's test file, run by a pytest of its own: right, and with its mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def outcome(folder: Path, bug: str) -> str:
    """What pytest prints for the file in a folder of its own."""
    shutil.copy(ROOT / "examples" / "test_my_port.py", folder)
    installed = metadata.entry_points(group="pytest11", name="jaxlstm")
    plugin = () if installed else ("-p", "jaxlstm.check.pytest_plugin")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "MY_BUG": bug},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_mistake_is_a_screen_with_its_name(tmp_path: Path) -> None:
    told = outcome(tmp_path, "1")
    assert "1 failed, 1 passed" in told
    assert "if the gates are read in the order i, f, o, g" in told
    assert "in i*g, unit" in told
    assert "array(" not in told.lower()
    assert len(told.splitlines()) < 40


@pytest.mark.slow
def test_without_it_all_pass(tmp_path: Path) -> None:
    assert "2 passed" in outcome(tmp_path, "")
