"""The native kernel in separate processes: concurrent calls, and JAX's compilation cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing.problems import needs_native

pytestmark = needs_native
TIMEOUT = 150
"""Seconds until a case that takes a few seconds counts as a deadlock."""


def child(case: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "testing.process_child", case],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("case", ["python_threads", "full_pool"])
def test_concurrent_calls(case: str) -> None:
    """Calls do not deadlock, and give the same bits as a single call because scratch is not shared."""
    assert child(case) == "done\n"


@pytest.mark.skipif(sys.platform != "linux", reason="moves threads to one core, as only Linux can")
def test_threads_on_one_core_do_not_spin() -> None:
    """A step takes microseconds. With a spin at every step, the calls took more than 30 seconds."""
    # XLA needs a second thread, which becomes the helper.
    assert float(child("one_core", NPROC="2")) < 3


def test_compilation_cache(tmp_path: Path) -> None:
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    assert child("cached", **cache) == "miss\n"
    assert child("cached", **cache) == "hit\n"
