"""Time and peak memory of a training step over one long sequence: `jaxlstm.training` beside torch.

One layer, B = 8, H = 256, 16 inputs; the loss is a mean of squares. Each side runs in a separate process,
libraries and compilation included. First the gradients are compared with torch's over a shorter sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.parts import Settings
from benchmarks.problems import Problem, Size, make_problem
from benchmarks.timing import process_rows
from jaxlstm import LSTMConfig, lstm
from jaxlstm.training import lstm_in_blocks
from testing.processes import process_cost

BATCH, HIDDEN = 8, 256
ROUNDS = 3  # memory hardly varies


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Compare gradients, then measure a training step of each side."""
    steps, short = (50, 50) if settings.tiny else (10_000, 1000)
    process_cost(["-c", f"from benchmarks.long import compare; compare({short})"])
    sides = {
        name: ["-c", f"from benchmarks.long import GRADIENTS; GRADIENTS[{name!r}]({steps})"]
        for name in GRADIENTS
        if name.startswith("jaxlstm") or name in settings.against
    }
    yield from process_rows(f"{steps:,} steps", sides, min(ROUNDS, settings.rounds))


def _problem(steps: int) -> Problem:
    return make_problem(Size(steps, BATCH, LSTMConfig(16, HIDDEN)))


def _in_blocks(steps: int) -> dict[str, np.ndarray]:
    config = _problem(1).config

    def loss(params: Any, x: Any) -> Any:
        return lstm_in_blocks(params, x, config=config, readout=lambda y, _: (y**2).sum() / _count(steps))[0]

    return _gradients(loss, steps)


def _in_one_call(steps: int) -> dict[str, np.ndarray]:
    config = _problem(1).config
    return _gradients(lambda params, x: (lstm(params, x, config=config)[0] ** 2).sum() / _count(steps), steps)


def _count(steps: int) -> int:
    return steps * BATCH * HIDDEN


def _gradients(loss: Any, steps: int) -> dict[str, np.ndarray]:
    given = _problem(steps)
    gradients = jax.jit(jax.grad(loss))(given.params, given.inputs)
    return {name: np.asarray(gradient) for name, gradient in gradients.items()}


def _in_torch(steps: int) -> dict[str, np.ndarray]:
    import torch

    from benchmarks.peers.torch import module

    given = _problem(steps)
    lstm = module(given.params, given.config)
    lstm(torch.from_numpy(given.inputs))[0].square().mean().backward()
    return {name: weight.grad.numpy() for name, weight in lstm.named_parameters()}  # type: ignore[union-attr]


GRADIENTS = {"jaxlstm": _in_blocks, "jaxlstm in one call": _in_one_call, "torch": _in_torch}


def compare(steps: int) -> None:
    """Assert that all gradients are equal to torch's, up to 1e-4 of the largest element."""
    expected = _in_torch(steps)
    for side in ("jaxlstm", "jaxlstm in one call"):
        actual = GRADIENTS[side](steps)
        for name, gradient in expected.items():
            tolerance = 1e-4 * float(np.abs(gradient).max())
            message = f"{side}, {name}"
            np.testing.assert_allclose(actual[name], gradient, rtol=0, atol=tolerance, err_msg=message)
