"""The table of ``docs/real_models.md``: real models in Flax and in PyTorch, their difference and speed.

Run ``taskset -c 0 python -m benchmarks.real_models``. It downloads the wheels. The implementations of a model
take turns in one process. The times are CPU times, which depend little on the other load of the machine. On
several cores they would also count threads that spin.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from benchmarks.machine import cpu_name, threads
from benchmarks.timing import interleaved
from jaxlstm._shared.table import format_number, table
from tests.support.real_problems import PROBLEMS, Problem

ROUNDS = 11
COLUMNS = ("model", "largest difference", "largest output", "torch ms", "jaxlstm ms", "torch / jaxlstm")


def main() -> None:
    torch.set_num_threads(threads())
    print(f"{cpu_name()}, {threads()} threads; torch {torch.__version__}, jax {jax.__version__}")
    print(table(COLUMNS, [_row(make) for make in PROBLEMS]))


def _row(make: Callable[[], Problem]) -> tuple[str, ...]:
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
    difference = float(np.abs(actual - expected).max())
    times = interleaved({"torch": theirs, "ours": ours}, ROUNDS, clock=time.process_time)
    ratio = statistics.median(t / o for t, o in zip(times["torch"], times["ours"], strict=True))
    medians = [statistics.median(times[name]) for name in ("torch", "ours")]
    numbers = (difference, float(np.abs(expected).max()), *medians, ratio)
    return (make.__name__, *map(format_number, numbers))


def _first(outputs: Any) -> np.ndarray:
    """Return the first output; the others are states."""
    return np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)


if __name__ == "__main__":
    main()
