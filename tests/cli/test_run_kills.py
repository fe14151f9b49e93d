"""``jaxlstm run`` resumes after a kill at any moment, and writes the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxlstm.cli.run import job
from testing.processes import python_environment
from testing.run_command import run, sequences, write_long_sequence

# Kills itself before or after the K-th rename: a rename makes a part, or the output, valid.
KILLED = """
import os, signal, sys
from jaxlstm import cli
from jaxlstm.cli.run import job
job.PART_STEPS = int(sys.argv[1])
left, replace = [int(sys.argv[2])], os.replace
def counted(*arguments):
    left[0] -= 1
    if left[0] == 0 and sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
sys.exit(cli.main(sys.argv[4:]))
"""


def killed_run(part_steps: int, rename: int, when: str, arguments: list) -> None:
    """Run in a process that kills itself at a rename."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(part_steps), str(rename), when, *map(str, arguments)],
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_many_sequences(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 60)
    np.savez(tmp_path / "x.npz", **sequences())  # type: ignore[arg-type]
    assert run(checkpoint, tmp_path / "x.npz", tmp_path / "whole.npz") == 0
    output = tmp_path / "y.npz"
    arguments = ["run", checkpoint, "--input", tmp_path / "x.npz", "-o", output]
    # Before the second of three parts; after the third part; before and after the output.
    for rename, when in ((3, "before"), (2, "after"), (1, "before"), (1, "after")):
        killed_run(60, rename, when, arguments)
        assert output.exists() == ((rename, when) == (1, "after"))
    monkeypatch.setattr(job.Job, "add", None)  # no part is missing
    assert run(checkpoint, tmp_path / "x.npz", output) == 0
    assert output.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "y.npz.parts").exists()


def test_one_long_sequence(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 50)
    write_long_sequence(tmp_path / "x.npy")
    assert run(checkpoint, tmp_path / "x.npy", tmp_path / "whole.npy") == 0
    output = tmp_path / "y.npy"
    arguments = ["run", checkpoint, "--input", tmp_path / "x.npy", "-o", output]
    killed_run(50, 4, "before", arguments)  # before the last of three parts
    assert len(list((tmp_path / "y.npy.parts").glob("part-*"))) == 2
    assert run(checkpoint, tmp_path / "x.npy", output) == 0
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()
