"""The native kernel in programs for eight devices: who computes what, and what is sent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.problems import needs_native

pytestmark = needs_native
CASES = [
    "sharded_batch",
    "other_axes",
    "same_bits",
    "rows_that_do_not_divide",
    "float64",
    "shard_map",
    "shard_map_without_a_state",
    "plain_scan",
    "export",
]
MORE_CASES = ["two_axes", "nothing_sharded", "higher_derivatives", "older_partitioner"]


@pytest.mark.parametrize(
    "cases",
    [CASES, pytest.param(MORE_CASES, marks=pytest.mark.slow), ["jax_without_its_private_name"]],
    ids=["most", "more", "private name"],
)
def test_each_device_runs_the_kernel_on_its_rows(cases: list[str]) -> None:
    """See the functions of partition_child.py."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.partition_child", *cases],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"after {done.stdout.split()}: {done.stderr}"
    assert done.stdout.split() == cases
