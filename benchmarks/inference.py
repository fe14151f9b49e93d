"""Inference on a CPU beside other libraries: steps of a stream, and many sequences of different lengths.

``python -m benchmarks.inference [--steps 10000] [--sizes 64,128,256,512] [--sequences 1000] [--json FILE]``.
torch, torch.compile, ONNX Runtime and OpenVINO take part if they are installed. All have the same weights,
and their outputs are compared before they are timed. Steps alternate in bursts of 100, each after one untimed
call; runs over all sequences alternate, and the median counts. ``--steps 0`` or ``--sequences 0`` skips
that part. Leave the machine idle meanwhile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxlstm
from benchmarks import machine, peers
from benchmarks.problems import Size, make_problem
from benchmarks.report import write_json

BURST, ROUNDS = 100, 9
STATEFUL = ("torch", "torch-compile", "onnxruntime", "openvino")
Call = Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]


def others(params: dict[str, np.ndarray], config: jaxlstm.LSTMConfig) -> dict[str, Call]:
    """Return ``call(inputs (T, 1, I), state) -> (outputs, state)`` for each installed library."""
    threads = machine.threads()
    return {
        name: peers.load(name).carrying(params, config, threads)
        for name in STATEFUL
        if not peers.missing(name)
    }


def step_latency(hidden_size: int, steps: int) -> dict[str, dict[str, float]]:
    """Return the median and 99th percentile, in µs, of one step of two layers with B = 1."""
    problem = make_problem(Size(1, 1, jaxlstm.LSTMConfig(hidden_size, hidden_size, num_layers=2)))
    x = problem.inputs[0]
    runner = jaxlstm.inference.compile(problem.params, problem.config, max_length=16, max_batch=1)
    stream = runner.stream()
    sides: dict[str, Callable[[], Any]] = {"jaxlstm": lambda: stream.step(x)}
    for name, call in others(problem.params, problem.config).items():
        sides[name] = _stepping(call, x[None])
    for _ in range(3):
        _assert_equal({name: side() for name, side in sides.items()})
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(max(1, steps // BURST)):
        for name, side in sides.items():
            side()
            times[name] += [1e6 * _seconds(side) for _ in range(BURST)]
    return {
        name: {f"p{q}": float(np.percentile(taken, q)) for q in (50, 99)} for name, taken in times.items()
    }


def many_sequences(count: int) -> dict[str, float]:
    """Return the seconds for sequences of 1 to 2,000 steps (log-uniform): one by one, and ``Runner.map``."""
    rng = np.random.default_rng(0)
    problem = make_problem(Size(1, 1, jaxlstm.LSTMConfig(64, 128)))
    params, config = problem.params, problem.config
    lengths = np.exp(rng.uniform(0, np.log(2000), count)).astype(int)
    sequences = [rng.standard_normal((n, 64)).astype(np.float32) for n in lengths]
    runner = jaxlstm.inference.compile(params, config, max_length=2000, max_batch=32)
    batched = jaxlstm.inference.compile(params, config, max_length=2000, max_batch=32)
    sides: dict[str, Callable[[], list[np.ndarray]]] = {
        "Runner.map": lambda: [y for y, _ in batched.map(sequences, progress=False)],
        "Runner": lambda: [runner(x)[0] for x in sequences],
    }
    for name, call in others(params, config).items():
        sides[name] = lambda call=call: [call(x[:, None], None)[0][:, 0] for x in sequences]
    results = {name: side() for name, side in sides.items()}  # compiles
    for outputs in zip(*results.values(), strict=True):
        _assert_equal(dict(zip(results, outputs, strict=True)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(_seconds(side))
    seconds = {name: float(np.median(taken)) for name, taken in times.items()}
    return seconds | {"padding waste": batched.stats().padding_waste}


def _stepping(call: Call, x: np.ndarray) -> Callable[[], np.ndarray]:
    """Return a step that keeps its state between calls."""
    state = None

    def step() -> np.ndarray:
        nonlocal state
        y, state = call(x, state)
        return y[0]

    return step


def _assert_equal(outputs: dict[str, Any]) -> None:
    first = next(iter(outputs.values()))
    for name, array in outputs.items():
        np.testing.assert_allclose(array, first, rtol=0, atol=1e-5, err_msg=name)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--sizes", default="64,128,256,512")
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    results: dict[str, Any] = {}
    if args.sequences:
        results["many"] = many_sequences(args.sequences)
        for name, value in results["many"].items():
            print(f"{name}: {value:.3f}", flush=True)
    for size in map(int, args.sizes.split(",")) if args.steps else ():
        results[f"steps, H={size}"] = step_latency(size, args.steps)
        for name, times in results[f"steps, H={size}"].items():
            print(f"H={size} {name}: p50 {times['p50']:.1f}, p99 {times['p99']:.1f}", flush=True)
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
