"""Streams.

A step of a stream has two layers. The implementations alternate in blocks of steps, each after a few untimed
ones: back to back, and with pauses between the steps, as audio or sensors arrive. A row holds the medians of
the blocks, others their 99th percentiles.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

import jaxlstm
from benchmarks import peers
from benchmarks.parts import Settings
from benchmarks.problems import Problem, Size, make_problem
from benchmarks.timing import spreads

BLOCK = 500
PAUSES = (0, 0.002, 0.01)
"""Seconds between two steps."""
Step = Callable[[], np.ndarray]


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time steps of one sequence in several sizes."""
    block = 10 if settings.tiny else BLOCK
    for hidden_size in (8,) if settings.tiny else (64, 128, 256, 512):
        problem = make_problem(Size(1, 1, jaxlstm.LSTMConfig(hidden_size, hidden_size, num_layers=2)))
        sides = steps(problem, settings)
        for pause in PAUSES:
            blocks = _blocks(sides, settings.rounds, block // 5 if pause else block, pause)
            paused = f", {pause * 1e3:.0f} ms apart" if pause else ""
            for percentile, name in ((50, ""), (99, ", 99th percentile")):
                of_blocks = {
                    side: [float(np.percentile(taken, percentile)) for taken in column]
                    for side, column in blocks.items()
                }
                case = f"H = {hidden_size}{paused}{name}"
                yield {"case": case, "unit": "us", "values": spreads(of_blocks)}


def steps(problem: Problem, settings: Settings) -> dict[str, Step]:
    """Return a step of each implementation, after a check that several steps agree."""
    x = problem.inputs[0]
    result: dict[str, Step] = {"jaxlstm": _stream(problem, x)}
    for name in settings.against:
        result[name] = peers.load(name).step(problem, settings)
    for _ in range(3):
        assert_equal({name: step() for name, step in result.items()}, 1e-5)
    result["jaxlstm one thread"] = _stream(problem, x, threads=1)
    result["jaxlstm bfloat16"] = _stream(problem, x.astype("bfloat16"))
    return result


def assert_equal(outputs: dict[str, np.ndarray], tolerance: float) -> None:
    """Assert that all arrays are equal to the first."""
    first = next(iter(outputs.values()))
    for name, array in outputs.items():
        np.testing.assert_allclose(array, first, rtol=0, atol=tolerance, err_msg=name)


def _stream(problem: Problem, x: np.ndarray, threads: int | None = None) -> Step:
    params, config = problem.params, problem.config
    with mock.patch.dict(os.environ, {"NPROC": str(threads)} if threads else {}):
        runner = jaxlstm.inference.compile(params, config, max_length=16, max_batch=1, dtype=x.dtype)
    stream = runner.stream()
    return lambda: stream.step(x)


def _blocks(sides: dict[str, Step], rounds: int, block: int, pause: float) -> dict[str, list[list[float]]]:
    """Return the microseconds of each step, one list for each round."""
    times: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, step in sides.items():
            for _ in range(block // 10):
                step()
            times[name].append([_microseconds(step, pause) for _ in range(block)])
    return times


def _microseconds(step: Step, pause: float) -> float:
    if pause:
        time.sleep(pause)
    start = time.perf_counter()
    step()
    return 1e6 * (time.perf_counter() - start)
