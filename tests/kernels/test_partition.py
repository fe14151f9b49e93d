"""The native kernel in programs for eight devices: kernel calls and communication."""

from __future__ import annotations

import pytest

from testing.problems import needs_native
from testing.processes import run_python

pytestmark = needs_native
CASES = [
    "sharded_batch",
    "same_bits",
    "uneven_batch",
    "float64",
    "shard_map",
    "shard_map_without_a_state",
    "export",
]
MORE_CASES = ["other_axes", "plain_scan", "two_axes", "replicated", "higher_derivatives", "gspmd"]


@pytest.mark.parametrize(
    "cases",
    [CASES, pytest.param(MORE_CASES, marks=pytest.mark.slow), ["jax_without_the_private_name"]],
    ids=["most", "more", "private name"],
)
def test_eight_devices(cases: list[str]) -> None:
    """See the functions of ``testing/partition_child.py``."""
    printed = run_python("-m", "testing.partition_child", *cases, devices=8, PYTHONWARNINGS="error")
    assert printed.split() == cases
