"""several_hosts.py in two processes trains as in one."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from testing.processes import python_environment

EXAMPLES = Path(__file__).parents[2] / "examples"
LOSS = re.compile(r"step \d+: loss ([\d.]+)")


def start(*arguments: str, devices: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, EXAMPLES / "several_hosts.py", *arguments],
        env=python_environment(
            devices,
            JAX_PLATFORMS="cpu",
            # Only one of several processes would write the cache of conftest.py.
            JAX_ENABLE_COMPILATION_CACHE="false",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    among = ("--coordinator", address, "--processes", "2", *arguments)
    return [start(*among, "--process", str(number)) for number in range(2)]


def losses(output: str) -> list[float]:
    return [float(value) for value in LOSS.findall(output)]


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["1", "4"], ids=["over-the-batch", "over-the-units"])
def test_two_processes_train_as_one(hidden: str) -> None:
    """Each process has two devices. With hidden=4 the all-gather of every step crosses the processes."""
    single = start("--steps", "4", devices=1)
    both = start_two("--steps", "4", "--hidden", hidden)
    printed = [child.communicate(timeout=1200) for child in (single, *both)]
    for child, (_, errors) in zip((single, *both), printed, strict=True):
        assert child.returncode == 0, errors[-3000:]
    expected = losses(printed[0][0])
    assert len(expected) == 4
    assert expected[-1] < expected[0] / 2
    assert losses(printed[1][0]) == pytest.approx(expected, rel=1e-5)
    # Only process 0 prints.
    assert losses(printed[2][0]) == []
