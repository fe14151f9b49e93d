"""Time of an LSTM on the CPU: torch, jaxlstm and flax nnx, forward and a training step, in float32.

``python benchmarks/layer.py [--json FILE]`` prints a markdown table. All three hold the same weights, which
is checked before anything is timed. A training step is the forward pass and the gradients of a sum of
squares by every parameter and by the inputs.

The sides take turns in warm bursts: each is called once untimed, then timed. A pause would put torch's
threads to sleep and make it look slower than it is. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import jax

jax.config.update("jax_platforms", "cpu")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from flax import nnx  # noqa: E402

from jaxlstm import LSTMConfig, __version__, from_torch, lstm  # noqa: E402

BURST_SECONDS = 0.05  # the least that one timed burst takes, so that the clock's own noise is small


class Size(NamedTuple):
    time: int
    batch: int
    input_size: int
    hidden_size: int
    num_layers: int


FORWARD_SIZES = [
    Size(128, 1, 256, 256, 1),
    Size(128, 1, 512, 512, 1),
    Size(1000, 1, 64, 128, 1),
    Size(128, 32, 512, 512, 1),
    Size(512, 64, 256, 256, 1),
    Size(64, 128, 128, 1024, 1),
    Size(100, 16, 40, 256, 3),
]
TRAINING_SIZES = [
    Size(128, 1, 512, 512, 1),
    Size(128, 32, 512, 512, 1),
    Size(512, 64, 256, 256, 1),
    Size(100, 16, 40, 256, 3),
]
TINY_SIZES = [Size(5, 2, 3, 4, 1), Size(5, 2, 3, 4, 2)]

Call = Callable[[], Any]  # does its work, and returns when it is done


class Side(NamedTuple):
    """One library: what it computes, as NumPy arrays, and what it does to be timed."""

    forward: Call
    training: Call


def torch_side(module: torch.nn.LSTM, inputs: np.ndarray) -> Side:
    x = torch.tensor(inputs)
    x_with_gradient = x.clone().requires_grad_()
    leaves = [x_with_gradient, *module.parameters()]

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return module(x)[0]

    def training() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(module(x_with_gradient)[0].square().sum(), leaves)

    return Side(forward, training)


def jax_side(apply: Callable, params: Any, inputs: np.ndarray) -> Side:
    """``apply(params, inputs)`` gives the outputs."""
    x = jnp.asarray(inputs)
    forward = jax.jit(apply)
    training = jax.jit(jax.grad(lambda *leaves: jnp.sum(apply(*leaves) ** 2), argnums=(1, 0)))
    return Side(
        lambda: jax.block_until_ready(forward(params, x)),
        lambda: jax.block_until_ready(training(params, x)),
    )


def jaxlstm_side(module: torch.nn.LSTM, inputs: np.ndarray, backend: str) -> Side:
    params, config = from_torch(module)
    return jax_side(lambda p, x: lstm(p, x, config=config, backend=backend)[0], params, inputs)


def nnx_side(module: torch.nn.LSTM, inputs: np.ndarray) -> Side:
    """Flax's own fastest cell in its own loop, a stack of them, with torch's weights."""
    params, config = from_torch(module)
    layers = nnx.List([nnx_layer(params, config, layer) for layer in range(config.num_layers)])
    graph, weights, rest = nnx.split(layers, nnx.Param, ...)

    def apply(weights: Any, x: Any) -> Any:
        zeros = jnp.zeros((x.shape[1], config.hidden_size))
        for layer in nnx.merge(graph, weights, rest):
            x = layer(x, initial_carry=(zeros, zeros))
        return x

    return jax_side(apply, weights, inputs)


def nnx_layer(params: dict[str, jax.Array], config: LSTMConfig, layer: int) -> nnx.RNN:
    features = config.layer_input_size(layer)
    cell = nnx.OptimizedLSTMCell(features, config.hidden_size, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = params[f"weight_ih_l{layer}"].T
    cell.dense_h.kernel[...] = params[f"weight_hh_l{layer}"].T
    cell.dense_h.bias = nnx.Param(params[f"bias_ih_l{layer}"] + params[f"bias_hh_l{layer}"])
    return nnx.RNN(cell, time_major=True)


def make_sides(size: Size, backend: str) -> dict[str, Side]:
    torch.manual_seed(0)
    module = torch.nn.LSTM(size.input_size, size.hidden_size, size.num_layers)
    shape = (size.time, size.batch, size.input_size)
    inputs = np.random.default_rng(0).standard_normal(shape, np.float32)
    sides = {
        "torch": torch_side(module, inputs),
        "jaxlstm": jaxlstm_side(module, inputs, backend),
        "flax nnx": nnx_side(module, inputs),
    }
    outputs = {name: np.asarray(side.forward()) for name, side in sides.items()}
    for name, output in outputs.items():
        np.testing.assert_allclose(output, outputs["torch"], atol=1e-5, err_msg=name)
    dx = {name: np.asarray(side.training()[0]) for name, side in sides.items()}
    for name, gradient in dx.items():
        tolerance = 1e-4 * np.abs(dx["torch"]).max()
        np.testing.assert_allclose(gradient, dx["torch"], rtol=0, atol=tolerance, err_msg=name)
    return sides


def time_by_turns(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median milliseconds of one call."""
    repeats = {
        name: 1 + int(BURST_SECONDS / max(seconds(call, 2), 1e-6)) for name, call in calls.items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            times[name].append(seconds(call, repeats[name]))
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def measure(pass_name: str, sizes: list[Size], rounds: int, backend: str) -> list[dict[str, Any]]:
    results = []
    print(f"\n{pass_name}\n\n| T, B, I, H, layers | torch ms | jaxlstm ms | flax nnx ms "
          "| torch / jaxlstm | torch / nnx |\n|---|---|---|---|---|---|")  # fmt: skip
    for size in sizes:
        sides = make_sides(size, backend)
        ms = time_by_turns({n: getattr(side, pass_name) for n, side in sides.items()}, rounds)
        ratios = [ms["torch"] / ms[name] for name in ("jaxlstm", "flax nnx")]
        cells = [f"{value:.3g}" for value in ms.values()] + [f"{ratio:.2f}" for ratio in ratios]
        print("|", ", ".join(map(str, size)), "|", " | ".join(cells), "|", flush=True)
        results.append({"pass": pass_name, **size._asdict(), "ms": ms})
    return results


def setting(backend: str, rounds: int) -> dict[str, Any]:
    """What a reader needs in order to compare."""
    versions = {"python": platform.python_version(), "jaxlstm": __version__}
    packages = ("jax", "jaxlib", "flax", "torch", "numpy")
    return {
        "versions": versions | {name: version(name) for name in packages},
        "device": cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "backend": backend,
        "rounds": rounds,
    }


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="Time torch, jaxlstm and flax nnx on the CPU.")
    parser.add_argument("--backend", default="scan", help="of jaxlstm.lstm")
    parser.add_argument("--rounds", type=int, default=9, help="bursts of which the median is taken")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, only to see that it runs")
    parser.add_argument("--json", metavar="FILE", help="write the results and the setting")
    arguments = parser.parse_args()

    found = setting(arguments.backend, arguments.rounds)
    print(", ".join(f"{name} {value}" for name, value in found["versions"].items()))
    print(f"{found['device']}, {found['cores']} cores; backend {found['backend']}")
    results = []
    for pass_name, sizes in (("forward", FORWARD_SIZES), ("training", TRAINING_SIZES)):
        sizes = TINY_SIZES if arguments.tiny else sizes
        results += measure(pass_name, sizes, arguments.rounds, arguments.backend)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({**found, "results": results}, file, indent=2)


if __name__ == "__main__":
    main()
