"""``jaxlstm run`` goes on after a kill at any moment, to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxlstm.cli.run import job
from tests.support.run_command import long_sequence, run, sequences, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


# Kills itself at the K-th rename, before or after it: a rename is what makes a part, or the output, count.
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


def test_a_killed_run_goes_on_to_the_same_bytes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 60)
    np.savez(tmp_path / "x.npz", **sequences())  # type: ignore[arg-type]
    assert run(checkpoint, tmp_path / "x.npz", tmp_path / "whole.npz") == 0
    output = tmp_path / "y.npz"
    arguments = ["run", checkpoint, "--input", tmp_path / "x.npz", "-o", output]
    # before the second of three parts; after the third, if the first is not run again; before the output
    for kill, when in ((3, "before"), (2, "after"), (1, "before")):
        done = killed(60, kill, when, arguments)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not output.exists()
    monkeypatch.setattr(job.Job, "add", None)  # all parts are there
    assert run(checkpoint, tmp_path / "x.npz", output) == 0
    assert output.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "y.npz.parts").exists()


def test_one_long_sequence_goes_on_after_a_kill(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 50)
    long_sequence(tmp_path / "x.npy")
    assert run(checkpoint, tmp_path / "x.npy", tmp_path / "whole.npy") == 0
    output = tmp_path / "y.npy"
    arguments = ["run", checkpoint, "--input", tmp_path / "x.npy", "-o", output]
    done = killed(50, 4, "before", arguments)  # before the last of three parts, after the card
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((tmp_path / "y.npy.parts").glob("part-*"))) == 2
    assert run(checkpoint, tmp_path / "x.npy", output) == 0
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def killed(part: int, kill: int, when: str, arguments: list) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(part), str(kill), when, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("source", ["x.npz", "x.npy"])
def test_kills_at_any_moment(checkpoint: Path, tmp_path: Path, source: str) -> None:
    """SIGKILL from outside, at 15 random moments, until a run gets through."""
    rng = np.random.default_rng(0)
    if source == "x.npy":
        np.save(tmp_path / source, rng.standard_normal((30_000, 5)).astype(np.float32))
    else:
        arrays = {f"s{k}": rng.standard_normal((50, 5)).astype(np.float32) for k in range(600)}
        np.savez(tmp_path / source, **arrays)  # type: ignore[arg-type]
    suffix = source[1:]
    arguments = ["run", checkpoint, "--input", tmp_path / source, "-o"]
    assert killed(500, -1, "", [*arguments, tmp_path / f"whole{suffix}"]).returncode == 0
    output = tmp_path / f"y{suffix}"
    command = [sys.executable, "-c", KILLED, "500", "-1", "", *arguments, output]
    moments = random.Random(0)
    for _ in range(15):
        child = subprocess.Popen(
            list(map(str, command)), env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        folder, began = output.with_name(output.name + ".parts"), time.monotonic()
        while not folder.exists() and child.poll() is None and time.monotonic() < began + 120:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        child.kill()
        if child.wait() == 0:
            break
    assert killed(500, -1, "", [*arguments, output]).returncode == 0
    assert output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
