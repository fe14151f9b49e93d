"""Compilation, and the first call of a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks import peers
from benchmarks.implementation import own
from benchmarks.problems import Size, make_problem
from benchmarks.settings import Settings
from benchmarks.timing import process_rows, spreads
from jaxlstm import LSTMConfig

PROCESSES = {
    "jaxlstm": """
import jax, numpy, jaxlstm
from jaxlstm.layer.params import param_shapes
config = jaxlstm.LSTMConfig(256, 256)
params = {name: numpy.ones(shape, "float32") for name, shape in param_shapes(config).items()}
run = jax.jit(lambda params, x: jaxlstm.lstm(params, x, config=config))
jax.block_until_ready(run(params, numpy.ones((16, 4, 256), "float32")))
""",
    "jaxlstm Runner": """
import numpy, jaxlstm
from jaxlstm.layer.params import param_shapes
config = jaxlstm.LSTMConfig(256, 256)
params = {name: numpy.ones(shape, "float32") for name, shape in param_shapes(config).items()}
runner = jaxlstm.inference.compile(params, config, max_length=16, max_batch=4)
runner(numpy.ones((16, 4, 256), "float32"))
""",
    "torch": """
import torch
with torch.inference_mode():
    torch.nn.LSTM(256, 256)(torch.ones(16, 4, 256))
""",
}


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time whole processes, then compilation in this one."""
    names = [name for name in PROCESSES if name.startswith("jaxlstm") or name in settings.against]
    sides = {name: ["-c", PROCESSES[name]] for name in names}
    yield process_rows("a process with one call", sides, settings.rounds)[0]
    for case, calls in compilations(settings).items():
        yield {"case": case, "unit": "ms", "values": spreads(_first_calls(calls, settings.rounds))}


def compilations(settings: Settings) -> dict[str, dict[str, Callable[[], Callable[[], Any]]]]:
    """Return for each case constructors of calls that compile."""
    makers = {"jaxlstm": own}
    if "flax-nnx" in settings.against:
        makers["flax-nnx"] = peers.load("flax-nnx").implementation
    sizes = {"one layer": LSTMConfig(256, 256)}
    if not settings.tiny:
        sizes["two layers, bidirectional"] = LSTMConfig(128, 256, num_layers=2, bidirectional=True)
    cases = {}
    for name, config in sizes.items():
        problem = make_problem(Size(16, 4, config))
        for index, mode in enumerate(("inference", "gradients")):
            cases[f"{name}, {mode}"] = {
                side: lambda make=make, problem=problem, index=index: make(problem, settings)[index]
                for side, make in makers.items()
            }
    return cases


def _first_calls(makers: dict[str, Callable[[], Callable[[], Any]]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of first calls with empty caches. The first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds + 1):
        for name, make in makers.items():
            jax.clear_caches()
            call = make()
            start = time.perf_counter()
            call()
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times
