"""The foreign project's test file, run by a pytest of its own: right, and with its mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_mistake_is_a_screen_with_its_name(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "test_my_port.py", tmp_path)
    installed = metadata.entry_points(group="pytest11", name="jaxlstm")
    plugin = () if installed else ("-p", "jaxlstm.check.pytest_plugin")
    outputs = {}
    for bug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", "."],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                "MY_BUG": bug,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        outputs[bug] = done.stdout + done.stderr
    assert "2 passed" in outputs[""], outputs[""]
    told = outputs["1"]
    assert "1 failed, 1 passed" in told
    assert "if the gates are read in the order i, f, o, g" in told
    assert "in i*g, unit" in told
    assert "array(" not in told.lower()
    assert len(told.splitlines()) < 40
