"""The native kernel in processes of their own: many threads at once, and JAX's compilation cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.problems import needs_native

pytestmark = needs_native
LONGEST = 150  # seconds, of what takes a few: a deadlock


def child(case: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.process_child", case],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("case", ["python_threads", "full_pool"])
def test_nobody_waits_for_a_thread_that_never_comes(case: str) -> None:
    """Each call has its own scratch, too: the bits are those of a call alone."""
    assert child(case) == "done\n"


def test_a_second_process_takes_the_program_from_the_cache(tmp_path: Path) -> None:
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    assert child("cached", **cache) == "miss\n"
    assert child("cached", **cache) == "hit\n"
