"""Memory that a training step over one long sequence takes: ``jaxlstm.training`` against torch.

``python benchmarks/long.py [--steps 100000] [--sides jaxlstm,torch]``. One layer, B = 8, H = 256, 16 inputs;
the loss is a mean of squares. Each side runs in a process of its own, which reports its peak resident memory,
the libraries in it. At the length ``--equal`` the gradients of ``jaxlstm.training`` and of ``jaxlstm.lstm`` are
compared with torch's.
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

BATCH, FEATURES, HIDDEN = 8, 16, 256


def inputs(steps: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((steps, BATCH, FEATURES), dtype=np.float32)


def weights() -> tuple[dict[str, np.ndarray], Any]:
    import jax

    from jaxlstm import LSTMConfig, init_params

    config = LSTMConfig(FEATURES, HIDDEN)
    params = init_params(jax.random.key(0), config)
    return {name: np.asarray(leaf) for name, leaf in params.items()}, config


def jaxlstm_gradients(steps: int, blocks: bool) -> dict[str, np.ndarray]:
    import jax
    import jax.numpy as jnp

    from jaxlstm import lstm
    from jaxlstm.training import lstm_in_blocks

    params, config = weights()

    def squares(outputs: jax.Array, _: Any) -> jax.Array:
        return jnp.mean(outputs**2) * (outputs.size / (steps * BATCH * HIDDEN))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        if blocks:
            return lstm_in_blocks(params, x, config=config, readout=squares)[0]
        return squares(lstm(params, x, config=config)[0], None)

    found = jax.jit(jax.grad(loss))(params, inputs(steps))
    return {name: np.asarray(leaf) for name, leaf in found.items()}


def torch_gradients(steps: int) -> dict[str, np.ndarray]:
    import torch

    module = torch.nn.LSTM(FEATURES, HIDDEN)
    module.load_state_dict({name: torch.tensor(leaf) for name, leaf in weights()[0].items()})
    module(torch.from_numpy(inputs(steps)))[0].square().mean().backward()
    return {name: leaf.grad.numpy() for name, leaf in module.named_parameters()}  # type: ignore[union-attr]


SIDES = {
    "jaxlstm": lambda steps: jaxlstm_gradients(steps, True),
    "torch": torch_gradients,
    "jaxlstm.lstm": lambda steps: jaxlstm_gradients(steps, False),
}


def child(side: str, steps: int) -> dict[str, float]:
    """Seconds, compilation with them, and the peak of this process's memory in MiB."""
    start = time.perf_counter()
    found = SIDES[side](steps)
    assert all(np.isfinite(leaf).all() for leaf in found.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {"seconds": time.perf_counter() - start, "MiB": peak}


def errors(steps: int) -> dict[str, float]:
    """Largest difference of a gradient to torch's, relative to the largest element of that gradient."""
    wanted = torch_gradients(steps)
    result = {}
    for side in ("jaxlstm", "jaxlstm.lstm"):
        found = SIDES[side](steps)
        result[side] = max(
            float(np.abs(found[name] - leaf).max() / np.abs(leaf).max())
            for name, leaf in wanted.items()
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--equal", type=int, default=2_000, metavar="STEPS")
    parser.add_argument("--sides", default="jaxlstm,torch")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.steps)))
        return
    print(
        f"gradients against torch's, {arguments.equal} steps: {errors(arguments.equal)}", flush=True
    )
    for side in arguments.sides.split(","):
        command = [sys.executable, __file__, "--steps", str(arguments.steps), "--child", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        told = done.stdout.strip() if done.returncode == 0 else f"ended with {done.returncode}"
        print(f"{side}, {arguments.steps} steps: {told}", flush=True)


if __name__ == "__main__":
    main()
