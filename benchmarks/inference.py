"""Inference on the CPU against other libraries: steps of a stream, and many sequences of many lengths.

``python benchmarks/inference.py [--steps 10000] [--sizes 128,256,512] [--sequences 1000] [--json FILE]``,
beside torch, torch.compile, ONNX Runtime and OpenVINO, as far as they are installed. All sides hold the same
weights, which is checked. Steps alternate in bursts of 100, each burst after one untimed call; whole runs
over the sequences alternate, and the median counts. ``--steps 0`` or ``--sequences 0`` leaves that out. Let
nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

jax.config.update("jax_platforms", "cpu")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from inference_peers import peers  # noqa: E402

import jaxlstm  # noqa: E402

BURST, ROUNDS = 100, 9


def step_latency(hidden_size: int, steps: int) -> dict[str, Any]:
    """Microseconds of one step, B=1, two layers, (h, c) carried: median and 99th percentile of each side."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(hidden_size, hidden_size, 2).eval()
    params, config = jaxlstm.from_torch(module)
    x = np.random.default_rng(0).standard_normal((1, hidden_size)).astype(np.float32)
    stream = jaxlstm.inference.compile(params, config, max_length=16, max_batch=1).stream()
    sides: dict[str, Callable[[], np.ndarray]] = {"jaxlstm": lambda: stream.step(x)}
    sides |= {name: carried(call, x[None]) for name, call in peers(module).items()}
    for _ in range(3):
        wanted = sides["torch"]()
        for name, call in sides.items():
            if name != "torch":
                np.testing.assert_allclose(call(), wanted, rtol=0, atol=1e-5, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(max(1, steps // BURST)):
        for name, call in sides.items():
            call()
            for _ in range(BURST):
                start = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - start) * 1e6)
    return {
        name: {"p50": np.percentile(taken, 50), "p99": np.percentile(taken, 99)}
        for name, taken in times.items()
    }


def carried(call: Callable[..., Any], x: np.ndarray) -> Callable[[], np.ndarray]:
    """A step of one that keeps its state."""
    state = None

    def step() -> np.ndarray:
        nonlocal state
        y, state = call(x, state)
        return y[0]

    return step


def many_sequences(count: int, hidden_size: int = 128) -> dict[str, Any]:
    """Seconds for lengths log-uniform from 1 to 2,000: each side one by one, and map."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = torch.nn.LSTM(64, hidden_size).eval()
    params, config = jaxlstm.from_torch(module)
    lengths = np.exp(rng.uniform(0, np.log(2000), count)).astype(int)
    sequences = [rng.standard_normal((n, 64)).astype(np.float32) for n in lengths]
    make = lambda: jaxlstm.inference.compile(params, config, max_length=2000, max_batch=32)  # noqa: E731
    single, batched = make(), make()
    calls: dict[str, Callable[[], list]] = {
        "Runner.map": lambda: [y for y, _ in batched.map(sequences, progress=False)],
        "Runner": lambda: [single(x)[0] for x in sequences],
    }
    for name, call in peers(module).items():
        calls[name] = partial(one_by_one, call, sequences)
    results = {name: call() for name, call in calls.items()}  # compiles
    for name, found in results.items():
        for a, b in zip(found, results["torch"], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5, err_msg=name)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    waste = {"padding waste": batched.stats().padding_waste}
    return {name: float(np.median(values)) for name, values in taken.items()} | waste


def one_by_one(call: Callable[..., Any], sequences: list[np.ndarray]) -> list[np.ndarray]:
    return [call(x[:, None], None)[0][:, 0] for x in sequences]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--sizes", default="128,256,512")
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.sequences:
        found["many"] = many_sequences(arguments.sequences)
        for name, value in found["many"].items():
            print(f"{name}: {value:.3f}", flush=True)
    for size in map(int, arguments.sizes.split(",")) if arguments.steps else ():
        found[f"steps, H={size}"] = step_latency(size, arguments.steps)
        for name, of in found[f"steps, H={size}"].items():
            print(f"H={size} {name}: p50 {of['p50']:.1f}, p99 {of['p99']:.1f}", flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
