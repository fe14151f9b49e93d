"""Fewer bits on checkpoints that others trained: size, speed, error and the checker's verdict, as a table.

``python benchmarks/fewer_bits.py [LABEL ...]`` fetches the pinned wheels of ``tests/real/files.py``. Errors
are those of the outputs to float64 with the weights of the file, on 3 sequences of 40 steps like those that
the model is for. The time is a Runner's, for 8 sequences of 200 steps, as a multiple of float32's: bursts
that alternate, the median of 9. The checker judges twice: against the weights of the file, and against them
as they were rounded, which tells a rounding from a mistake.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_platforms", "cpu")

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
import jaxlstm  # noqa: E402
from jaxlstm.check import verify  # noqa: E402
from jaxlstm._shared.table import size, table  # noqa: E402
from jaxlstm.inference import Runner, compile  # noqa: E402
from jaxlstm.inference.program import time_major  # noqa: E402
from jaxlstm.inference.quantize import prepare, restore  # noqa: E402
from tests.real.files import BY_LABEL  # noqa: E402
from tests.real.test_port import frames  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"weights": "int8"},
    "int8, bfloat16": {"weights": "int8", "dtype": "bfloat16"},
}
CHECKPOINTS = ("resemblyzer", "beatnet", "silero-onnx", "g2pm")
ROUNDS, SECONDS = 9, 0.1


def rows(label: str) -> list[list[Any]]:
    """One row for each kind of weights."""
    real = BY_LABEL[label]
    ((prefix, _),) = real.lstms.items()
    params, config = jaxlstm.load(real.path(), prefix=prefix)
    x = frames(real, config.input_size, np.random.default_rng(0))
    with jax.enable_x64(True):
        wide = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
        exact, _ = jaxlstm.lstm(wide, x.astype(np.float64), config=config)
        exact = np.asarray(exact)
    runners = {
        kind: compile(params, config, max_length=256, max_batch=8, **options)
        for kind, options in KINDS.items()
    }
    times = timed(runners, config.input_size)
    found = []
    for kind, runner in runners.items():
        outputs = runner(x.astype(runner.dtype))[0].astype(np.float64)
        stored = prepare(params, runner.dtype, KINDS[kind].get("weights"))
        nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(stored))
        error = np.abs(outputs - exact)
        found.append([
            label, kind, size(nbytes), f"{times[kind] / times['float32']:.2f}",
            f"{np.sqrt(np.mean(error**2)):.1e}", f"{error.max():.1e}",
            *verdicts(params, stored, config, runner.dtype),
        ])  # fmt: skip
    return found


def verdicts(params: Any, stored: Any, config: Any, dtype: np.dtype) -> tuple[str, str]:
    """The checker's words on ``lstm`` with the stored weights: against the file's, and against those."""
    rounded = {name: np.asarray(leaf) for name, leaf in restore(stored, np.float32).items()}
    config = time_major(config)

    @jax.jit
    def port(inputs: Any, initial_state: Any, seq_lengths: Any) -> Any:
        weights = {name: leaf.astype(inputs.dtype) for name, leaf in rounded.items()}
        return jaxlstm.lstm(weights, inputs, initial_state, config=config, seq_lengths=seq_lengths)

    def word(weights: Any) -> str:
        report = verify(port, weights, config, dtype=dtype, gradients=False)
        return "holds" if report.ok else "does not hold"

    return word(params), word(rounded)


def timed(runners: dict[str, Runner], input_size: int) -> dict[str, float]:
    """Median seconds of a call, the runners in turn."""
    x = np.random.default_rng(0).standard_normal((200, 8, input_size))
    calls: dict[str, Callable[[], Any]] = {
        kind: partial(runner, x.astype(runner.dtype)) for kind, runner in runners.items()
    }
    taken: dict[str, list[float]] = {kind: [] for kind in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for kind, call in calls.items():
            call()
            start, count = time.perf_counter(), 0
            while time.perf_counter() < start + SECONDS:
                call()
                count += 1
            taken[kind].append((time.perf_counter() - start) / count)
    return {kind: float(np.median(values)) for kind, values in taken.items()}


def main() -> None:
    header = ("checkpoint", "weights", "size", "time", "RMS", "max", "as in the file", "as rounded")
    for label in sys.argv[1:] or CHECKPOINTS:
        print(table(header, rows(label)), flush=True)


if __name__ == "__main__":
    main()
