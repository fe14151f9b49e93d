"""What only many calls, or another process, show: memory that stays, and programs that outlive a process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from tests.support.inference import normal, weights

CONFIG = LSTMConfig(5, 12, num_layers=2)
MEMORY = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    gc.collect()
    return int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(
    not MEMORY.exists(), reason="Linux alone tells a process its memory at this moment"
)
@pytest.mark.parametrize("what", ["call", "step"])
def test_memory_stays_over_100_000_calls(what: str) -> None:
    runner = compile(weights(CONFIG), CONFIG, max_length=16, max_batch=2)
    stream, x = runner.stream(2), normal(9, 2, 5)
    call: Callable[[], object] = {"call": lambda: runner(x), "step": lambda: stream.step(x[0])}[
        what
    ]
    for _ in range(5_000):  # allocators and pools fill up first
        call()
    before = resident()
    for _ in range(100_000):
        call()
    assert resident() - before <= 2**20
    assert runner.stats().calls == 105_000


CACHED = """
import sys, jax
from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from tests.support.inference import normal, weights
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
config = LSTMConfig(5, 12, num_layers=2)
params, x = weights(config), normal(20, 2, 5)
del hits[:]
outputs, _ = compile(params, config, max_length=32, max_batch=2)(x)
print(hits.count("/jax/compilation_cache/cache_hits"), outputs.tobytes().hex())
"""


def test_programs_outlive_a_process(tmp_path: Path) -> None:
    """With JAX's persistent cache the second process compiles nothing, and computes the same bits."""
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CACHED, tmp_path],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        told.append(done.stdout.split())
    (first, bits), (second, again) = told
    assert (first, second) == ("0", "1")
    assert again == bits
