"""Memory of a training step over one long sequence: `jaxlstm.training` beside torch.

``python -m benchmarks.long [--steps 100000] [--sides jaxlstm,torch]``. One layer, B = 8, H = 256, 16 inputs;
the loss is a mean of squares. Each side runs in a separate process and reports its peak resident memory,
libraries included. First the gradients of `jaxlstm.training` and ``jaxlstm.lstm`` are compared with torch's
over ``--equal`` steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.problems import Problem, Size, make_problem
from jaxlstm import LSTMConfig, lstm

BATCH, HIDDEN = 8, 256
Gradients = dict[str, np.ndarray]


def problem(steps: int) -> Problem:
    return make_problem(Size(steps, BATCH, LSTMConfig(16, HIDDEN)))


def jaxlstm_gradients(steps: int, blocks: bool) -> Gradients:
    import jax
    import jax.numpy as jnp

    from jaxlstm.training import lstm_in_blocks

    given = problem(steps)

    def squares(outputs: jax.Array, _: Any) -> jax.Array:
        return jnp.mean(outputs**2) * (outputs.size / (steps * BATCH * HIDDEN))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        if blocks:
            return lstm_in_blocks(params, x, config=given.config, readout=squares)[0]
        return squares(lstm(params, x, config=given.config)[0], None)

    gradients = jax.jit(jax.grad(loss))(given.params, given.inputs)
    return {name: np.asarray(gradient) for name, gradient in gradients.items()}


def torch_gradients(steps: int) -> Gradients:
    import torch

    from benchmarks.peers.torch import module

    given = problem(steps)
    lstm = module(given.params, given.config)
    lstm(torch.from_numpy(given.inputs))[0].square().mean().backward()
    return {name: weight.grad.numpy() for name, weight in lstm.named_parameters()}  # type: ignore[union-attr]


SIDES = {
    "jaxlstm": lambda steps: jaxlstm_gradients(steps, True),
    "torch": torch_gradients,
    "jaxlstm.lstm": lambda steps: jaxlstm_gradients(steps, False),
}


def cost(side: str, steps: int) -> dict[str, float]:
    """Return the seconds of a step, compilation included, and this process's peak memory in MiB."""
    start = time.perf_counter()
    gradients = SIDES[side](steps)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {"seconds": time.perf_counter() - start, "MiB": peak}


def errors(steps: int) -> dict[str, float]:
    """Return the largest difference of a gradient from torch's, relative to its largest element."""
    expected = torch_gradients(steps)
    result = {}
    for side in ("jaxlstm", "jaxlstm.lstm"):
        actual = SIDES[side](steps)
        result[side] = max(
            float(np.abs(actual[name] - gradient).max() / np.abs(gradient).max())
            for name, gradient in expected.items()
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--equal", type=int, default=2_000, metavar="STEPS")
    parser.add_argument("--sides", default="jaxlstm,torch")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(cost(args.child, args.steps)))
        return
    print(f"gradients and torch's, {args.equal} steps: {errors(args.equal)}", flush=True)
    for side in args.sides.split(","):
        command = [sys.executable, "-m", "benchmarks.long", "--steps", str(args.steps)]
        done = subprocess.run([*command, "--child", side], stdout=subprocess.PIPE, text=True, check=False)
        result = done.stdout.strip() if done.returncode == 0 else f"exit status {done.returncode}"
        print(f"{side}, {args.steps} steps: {result}", flush=True)


if __name__ == "__main__":
    main()
