"""Memory over many calls, and JAX's persistent compilation cache."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from testing.inference import normal, weights
from testing.processes import run_python

CONFIG = LSTMConfig(5, 12, num_layers=2)
MEMORY = Path("/proc/self/statm")


def resident_bytes() -> int:
    gc.collect()
    return int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not MEMORY.exists(), reason="only Linux reports the current resident memory")
@pytest.mark.parametrize("kind", ["call", "step"])
def test_memory_stays_over_100_000_calls(kind: str) -> None:
    runner = compile(weights(CONFIG), CONFIG, max_length=16, max_batch=2)
    stream, x = runner.stream(2), normal(9, 2, 5)
    calls: dict[str, Callable[[], object]] = {"call": lambda: runner(x), "step": lambda: stream.step(x[0])}
    # The first calls fill allocators and pools.
    for _ in range(5_000):
        calls[kind]()
    before = resident_bytes()
    for _ in range(100_000):
        calls[kind]()
    assert resident_bytes() - before <= 2**20
    assert runner.stats().calls == 105_000


CACHED = """
import sys, jax
from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from testing.inference import normal, weights
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
config = LSTMConfig(5, 12, num_layers=2)
params, x = weights(config), normal(20, 2, 5)
del hits[:]
outputs, _ = compile(params, config, max_length=32, max_batch=2, backend="scan")(x)
print(hits.count("/jax/compilation_cache/cache_hits"), outputs.tobytes().hex())
"""


def test_persistent_cache(tmp_path: Path) -> None:
    """A second process compiles nothing, and computes the same bits."""
    first, second = (run_python("-c", CACHED, tmp_path, JAX_PLATFORMS="cpu").split() for _ in range(2))
    assert (first[0], second[0]) == ("0", "1")
    assert first[1] == second[1]
