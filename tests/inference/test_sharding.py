"""On eight simulated devices: equal to one, and one all-gather a step; and two processes."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from jaxlstm import LSTMConfig
from jaxlstm.inference import shard

QUICK = ["stack:data=2,hidden=4", "both:hidden=8"]
SLOW = ["stack:data=8", "stack:hidden=8", "both:data=8", "both:data=2,hidden=4"]


@pytest.mark.parametrize(
    "cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_eight_devices_equal_one(cases: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.inference.sharding_child", *cases],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["equal"] * len(cases)


def test_errors() -> None:
    mesh = jax.make_mesh((1,), ("model",))
    with pytest.raises(ValueError, match="the axes of mesh must be of"):
        shard(LSTMConfig(5, 16), mesh)
    sharded = shard(LSTMConfig(5, 16), jax.make_mesh((1,), ("data",)))
    with pytest.raises(ValueError, match="params do not fit"):
        sharded.place({})
    with pytest.raises(ValueError, match="inputs must have 3 axes, the last of 5"):
        sharded({}, jax.numpy.zeros((3, 2, 4)))
