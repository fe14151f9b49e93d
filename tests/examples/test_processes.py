"""several_hosts.py in two processes trains as in one."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
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
    # A busy machine delays heartbeats.
    among = ("--coordinator", address, "--processes", "2", "--timeout", "600", *arguments)
    return [start(*among, "--process", str(number)) for number in range(2)]


def losses(output: str) -> list[float]:
    return [float(value) for value in LOSS.findall(output)]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "hidden"), [("lstm", "1"), ("lstm", "4"), ("demo", "1")])
def test_two_processes_train_as_one(model: str, hidden: str, tmp_path: Path) -> None:
    """Each process has two devices. With hidden=4 the all-gather of every step crosses the processes.

    The weights show the sum of all gradients.
    """
    arguments = ("--model", model, "--steps", "4", "--save")
    single = start(*arguments, str(tmp_path / "one.npz"), devices=1)
    both = start_two(*arguments, str(tmp_path / "two.npz"), "--hidden", hidden)
    printed = [child.communicate(timeout=1200) for child in (single, *both)]
    for child, (_, errors) in zip((single, *both), printed, strict=True):
        assert child.returncode == 0, errors[-3000:]
    expected = losses(printed[0][0])
    assert len(expected) == 4
    assert expected[-1] < expected[0] / (2 if model == "lstm" else 1.1)
    assert losses(printed[1][0]) == pytest.approx(expected, rel=1e-5)
    # Only process 0 prints.
    assert losses(printed[2][0]) == []
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert set(one) == set(two)
        for name, weights in one.items():
            np.testing.assert_allclose(two[name], weights, rtol=0, atol=1e-5, err_msg=name)
