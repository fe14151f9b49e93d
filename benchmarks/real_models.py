"""Published models in Flax and in PyTorch: their largest difference and speed. It downloads their wheels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from benchmarks.parts import Settings
from benchmarks.timing import interleaved, spreads
from testing.real_models import PROBLEMS, Problem

TITLES = {"resemblyzer": "Resemblyzer, 8 windows of 1.6 s", "silero_vad": "Silero VAD, one frame of a stream"}


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Compare and time each model."""
    torch.set_num_threads(settings.threads)
    for make in PROBLEMS:
        yield row(make, settings)


def row(make: Callable[[], Problem], settings: Settings) -> dict[str, Any]:
    """Compare and time one model."""
    problem = make()
    model = problem.ours
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, args: nnx.merge(graph, state)(*args))
    args = jax.tree.map(jax.numpy.asarray, problem.long_args)
    tensors = jax.tree.map(torch.from_numpy, problem.long_args)

    def ours() -> Any:
        return jax.block_until_ready(run(state, args))

    def theirs() -> Any:
        with torch.inference_mode():
            return problem.theirs(*tensors)

    actual, expected = _first(ours()), _first(theirs())
    largest = float(np.abs(expected).max())
    difference = float(np.abs(actual - expected).max())
    values = spreads(interleaved({"jaxlstm": ours, "torch": theirs}, settings.rounds))
    columns = {"largest difference": float(f"{difference:.2g}"), "largest output": float(f"{largest:.2g}")}
    return {"case": TITLES[make.__name__], "unit": "ms", "values": values, "columns": columns}


def _first(outputs: Any) -> np.ndarray:
    """Return the first output; the others are states."""
    return np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
