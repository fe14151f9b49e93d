"""Compilation, and the first call of a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks import peers
from benchmarks.implementation import own
from benchmarks.parts import Settings
from benchmarks.problems import Size, make_problem
from benchmarks.timing import process_rows, spreads
from jaxlstm import LSTMConfig

IN_JAX = """
import jax, numpy, jaxlstm
config = jaxlstm.LSTMConfig(256, 256)
params = {name: numpy.ones(shape, "float32") for name, shape in jaxlstm.param_shapes(config).items()}
x = numpy.ones((16, 4, 256), "float32")
"""
PROCESSES = {
    "jaxlstm": f"""{IN_JAX}
jax.block_until_ready(jax.jit(lambda params, x: jaxlstm.lstm(params, x, config=config))(params, x))
""",
    "jaxlstm Runner": f"""{IN_JAX}
jaxlstm.inference.compile(params, config, max_length=16, max_batch=4)(x)
""",
    "torch": """
import torch
with torch.inference_mode():
    torch.nn.LSTM(256, 256)(torch.ones(16, 4, 256))
""",
}
SIZES = {
    "one layer": LSTMConfig(256, 256),
    "two layers, bidirectional": LSTMConfig(128, 256, num_layers=2, bidirectional=True),
}


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time whole processes, then compilation in this one. torch does not compile."""
    names = [name for name in PROCESSES if name.startswith("jaxlstm") or name in settings.against]
    sides = {name: ["-c", PROCESSES[name]] for name in names}
    yield process_rows("a process with one call", sides, settings.rounds)[0]
    makers = {"jaxlstm": own}
    if "flax-nnx" in settings.against:
        makers["flax-nnx"] = peers.load("flax-nnx").implementation
    for name in list(SIZES)[:1] if settings.tiny else SIZES:
        problem = make_problem(Size(16, 4, SIZES[name]))
        for index, mode in enumerate(("inference", "gradients")):
            calls = {
                side: lambda make=make, problem=problem, index=index: make(problem, settings)[index]
                for side, make in makers.items()
            }
            times = _first_calls(calls, settings.rounds)
            yield {"case": f"{name}, {mode}", "unit": "ms", "values": spreads(times)}


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
