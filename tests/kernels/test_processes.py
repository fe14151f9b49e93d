"""The native kernel in separate processes: concurrent calls, JAX's compilation cache, eight devices."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from testing.problems import needs_native
from testing.processes import run_python

pytestmark = needs_native


@pytest.mark.parametrize("case", ["python_threads", "full_pool"])
def test_concurrent_calls(case: str) -> None:
    """Calls do not deadlock, and give the same bits as a single call because scratch is not shared."""
    assert run_python("-m", "testing.process_child", case) == "done\n"


@pytest.mark.skipif(sys.platform != "linux", reason="moves threads to one core, as only Linux can")
def test_threads_on_one_core_do_not_spin() -> None:
    """With a spin at every step, two threads took a hundred times the processor time of one."""
    # XLA needs a second thread, which becomes the helper.
    one, two = map(float, run_python("-m", "testing.process_child", "one_core", NPROC="2").split())
    assert two < 10 * one


def test_compilation_cache(tmp_path: Path) -> None:
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for expected in ("miss", "hit"):
        assert run_python("-m", "testing.process_child", "cached", devices=4, **cache).strip() == expected


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
    """See the functions of ``testing/eight_devices.py``: kernel calls and communication."""
    printed = run_python("-m", "testing.eight_devices", *cases, devices=8, PYTHONWARNINGS="error")
    assert printed.split() == cases
