"""Sequences of many lengths: in sorted batches by ``Runner.map``, and one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import jaxlstm
from benchmarks import peers
from benchmarks.problems import Size, make_problem
from benchmarks.settings import Settings
from benchmarks.streams import assert_equal
from benchmarks.timing import interleaved, spreads


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time 1,000 sequences of 1 to 2,000 steps."""
    count, longest = (5, 20) if settings.tiny else (1000, 2000)
    times = interleaved(sides(count, longest, settings), settings.rounds)
    seconds = {name: [ms / 1e3 for ms in column] for name, column in times.items()}
    yield {"case": f"{count:,} sequences of 1 to {longest:,} steps", "unit": "s", "values": spreads(seconds)}


def sides(count: int, longest: int, settings: Settings) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Return each implementation over log-uniform lengths, after a check that they agree."""
    rng = np.random.default_rng(0)
    problem = make_problem(Size(1, 1, jaxlstm.LSTMConfig(64, 128)))
    params, config = problem.params, problem.config
    lengths = np.exp(rng.uniform(0, np.log(longest), count)).astype(int)
    arrays = [rng.standard_normal((n, 64)).astype(np.float32) for n in lengths]
    runner = jaxlstm.inference.compile(params, config, max_length=longest, max_batch=32)
    result: dict[str, Callable[[], list[np.ndarray]]] = {
        "jaxlstm": lambda: [y for y, _ in runner.map(arrays, progress=False)],
        "jaxlstm one by one": lambda: [runner(x)[0] for x in arrays],
    }
    for name in settings.against:
        call = peers.load(name).carrying(params, config, settings.threads)
        result[name] = lambda call=call: [call(x[:, None], None)[0][:, 0] for x in arrays]
    outputs = {name: side() for name, side in result.items()}
    for of_one in zip(*outputs.values(), strict=True):
        assert_equal(dict(zip(outputs, of_one, strict=True)), 1e-5)
    return result
