"""Inference on the CPU against torch: a step of a stream, and many sequences of many lengths.

``python benchmarks/inference.py [--steps 10000] [--sequences 1000] [--json FILE]``. Both sides hold the same
weights, which is checked. Steps alternate in bursts of 100, each burst after one untimed call. Let nothing
else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax

jax.config.update("jax_platforms", "cpu")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import jaxlstm  # noqa: E402

BURST = 100
STEP_SIZES = (128, 256, 512)


def step_latency(hidden_size: int, steps: int) -> dict[str, Any]:
    """Microseconds of one step, B=1, two layers, (h, c) carried: median and 99th percentile."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(hidden_size, hidden_size, 2).eval()
    params, config = jaxlstm.from_torch(module)
    stream = jaxlstm.inference.compile(params, config, max_length=16, max_batch=1).stream()
    x = np.random.default_rng(0).standard_normal((1, hidden_size)).astype(np.float32)
    tensor, state = torch.tensor(x)[None], None

    def torch_step(_: Any) -> np.ndarray:
        nonlocal state
        with torch.inference_mode():
            y, state = module(tensor, state)
        return y[0].numpy()

    sides: dict[str, Callable[[Any], np.ndarray]] = {"torch": torch_step, "jaxlstm": stream.step}
    for _ in range(3):
        np.testing.assert_allclose(stream.step(x), torch_step(x), rtol=0, atol=1e-5)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(max(1, steps // BURST)):
        for name, call in sides.items():
            call(x)
            for _ in range(BURST):
                start = time.perf_counter()
                call(x)
                times[name].append((time.perf_counter() - start) * 1e6)
    result: dict[str, Any] = {"hidden_size": hidden_size}
    for name, taken in times.items():
        result |= {f"{name} p50": np.percentile(taken, 50), f"{name} p99": np.percentile(taken, 99)}
    return result


def many_sequences(count: int, hidden_size: int = 128) -> dict[str, Any]:
    """Seconds for lengths log-uniform from 1 to 2,000: torch and a Runner one by one, and map."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = torch.nn.LSTM(64, hidden_size).eval()
    params, config = jaxlstm.from_torch(module)
    lengths = np.exp(rng.uniform(0, np.log(2000), count)).astype(int)
    sequences = [rng.standard_normal((n, 64)).astype(np.float32) for n in lengths]
    make = lambda: jaxlstm.inference.compile(params, config, max_length=2000, max_batch=32)  # noqa: E731
    single, batched = make(), make()
    single_results = [single(x) for x in sequences]  # compiles
    for (a, _), (b, _) in zip(single_results, batched.map(sequences, progress=False), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    waste = batched.stats().padding_waste

    def torch_loop() -> None:
        with torch.inference_mode():
            for x in sequences:
                module(torch.from_numpy(x))

    calls = {
        "torch, one by one": torch_loop,
        "Runner, one by one": lambda: [single(x) for x in sequences],
        "Runner.map": lambda: batched.map(sequences, progress=False),
    }
    taken: dict[str, Any] = {name: [] for name in calls}
    for _ in range(3):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in taken.items()} | {"padding waste": waste}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    many = many_sequences(arguments.sequences)
    for name, value in many.items():
        print(f"{name}: {value:.3f}", flush=True)
    steps = []
    for size in STEP_SIZES:
        steps.append(step_latency(size, arguments.steps))
        print({name: round(float(value), 1) for name, value in steps[-1].items()}, flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"steps": steps, "many": many}, file, indent=2)


if __name__ == "__main__":
    main()
