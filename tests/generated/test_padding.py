"""Random models with numbers from sizes, and steps that mix rows or time: compiled calls equal torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import jaxlstm
from jaxlstm.inference import compile
from testing.exported import AUTO
from testing.graphs import without_example
from testing.inference import normal
from testing.modules import module_of
from testing.seeds import seeds

Step = Callable[[Any, Tensor, int], Tensor]
"""A function of the module, x (batch, time, 3) and a number k from 2 to 20."""


def attended(x: Tensor, mask: Tensor | None = None) -> Tensor:
    return functional.scaled_dot_product_attention(x, x, x, mask)


APART: list[Step] = [
    lambda m, x, k: m.lstm(x)[0],
    lambda m, x, k: m.gru(x)[0][..., :3],
    lambda m, x, k: torch.tanh(m.linear(x)),
    lambda m, x, k: m.norm(x).masked_fill(x > 0.5, 0.1 * k),
    lambda m, x, k: x * torch.where(torch.arange(x.shape[1]) < k, 1.0, 0.5)[:, None],
    lambda m, x, k: torch.cat([x, x[:, :1].expand(x.shape)], 2)[..., 2:5],
    lambda m, x, k: (x.cumsum(1) + x[:, 0, None]).reshape(x.shape[0], -1, 3) / k,
    lambda m, x, k: x.softmax(2) + m.norm(x.sort(2)[0]).amax(2, keepdim=True),
]
OVER_TIME: list[Step] = [
    lambda m, x, k: x - x.mean(1, keepdim=True),
    lambda m, x, k: x.flip(1).cumsum(1) / k,
    lambda m, x, k: attended(x),
    lambda m, x, k: attended(x, torch.ones(x.shape[1], x.shape[1]).tril().bool()),
    lambda m, x, k: m.convolution(x.mT).mT,
    lambda m, x, k: x * x[:, -1:].softmax(1) + x.amax(1, keepdim=True),
]
OVER_ROWS: list[Step] = [
    lambda m, x, k: x - x.mean(0),
    lambda m, x, k: x.flip(0) + x.roll(1, 0),
    lambda m, x, k: (x[:, None] - x[None]).abs().sum(1) / k,
    lambda m, x, k: attended(x.transpose(0, 1)).transpose(0, 1),
    lambda m, x, k: torch.einsum("ab,bti->ati", torch.tanh(x[:, 0] @ x[:, 0].T), x) / k,
]
EXACT = 3
"""The first so many numbers have symbols. The others have values only, and time may not be padded."""
NUMBERS: list[Callable[[int, int], Any]] = [
    lambda n, k: n % k,
    lambda n, k: n // k,
    lambda n, k: n % 2 * k,
    lambda n, k: min(n, k),
    lambda n, k: max(n, k),
    lambda n, k: n & 1,
    lambda n, k: (n - n % 2) / k,
    lambda n, k: 1 / (1 + n // 4) ** 0.5,
]


def numbered(number: Callable[[int, int], Any], size: Callable[[Tensor], int], by: Step) -> Step:
    """Return a step that adds, multiplies or divides by a number from a size."""
    return lambda m, x, k: by(m, x, number(size(x), k))


USES: list[Step] = [lambda m, x, n: x + n, lambda m, x, n: x * n, lambda m, x, n: x / (1 + n)]


def random_steps(rng: np.random.Generator) -> tuple[list[tuple[Step, int]], bool, bool]:
    """Return steps with their numbers, and whether they leave rows apart, and time."""
    places = [lambda x: x.shape[0], lambda x: x.shape[1], lambda x: x.numel()]
    steps, rows, time = [], True, True
    for kind in rng.choice(["apart", "apart", "apart", "time", "rows", "number"], rng.integers(1, 5)):
        if kind == "number":
            place, number, use = (rng.integers(n) for n in (3, len(NUMBERS), len(USES)))
            step = numbered(NUMBERS[number], places[place], USES[use])
            rows, time = rows and place == 1, time and place == 0 and number < EXACT
        else:
            some = {"apart": APART, "time": OVER_TIME, "rows": OVER_ROWS}[kind]
            step = some[rng.integers(len(some))]
            rows, time = rows and kind != "rows", time and kind != "time"
        steps.append((step, int(rng.integers(2, 21))))
    return steps, bool(rows), bool(time)


@pytest.mark.parametrize("seed", seeds(fast=2, slow=100))
def test_compiled_calls_equal_torch(seed: int) -> None:
    """At all sizes and in maps; and an axis that all steps leave apart is padded.

    Half of the programs do not record the sizes of their example.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    steps, rows, time = random_steps(rng)

    def forward(m: Any, x: Tensor) -> Tensor:
        for step, number in steps:
            x = step(m, x, number)
        return x

    layers = {
        "lstm": nn.LSTM(3, 3, batch_first=True),
        "gru": nn.GRU(3, 2, batch_first=True, bidirectional=True),
    }
    others = {
        "linear": nn.Linear(3, 3),
        "norm": nn.LayerNorm(3),
        "convolution": nn.Conv1d(3, 3, 3, padding=1),
    }
    module = module_of(forward, **layers, **others)
    program = jaxlstm.from_module(module, (torch.randn(3, 7, 3),), dynamic_shapes=({0: AUTO, 1: AUTO},))
    has_example = seed % 2 == 0
    runner = compile(program if has_example else without_example(program))
    pads_rows, pads_time = runner.padded.values()
    assert pads_rows >= (rows and has_example)
    assert pads_time >= (time and has_example)

    def require(actual: np.ndarray, x: np.ndarray) -> None:
        expected = module(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

    for shape in ((2, 5), (3, 9), (3, 14), (5, 20)):
        x = normal(*shape, 3, seed=seed)
        require(runner(x), x)
    xs = [normal(length, 3, seed=length) for length in (5, 9, 9, 14)]
    before = runner.stats().calls
    for x, result in zip(xs, runner.map(xs), strict=True):
        require(result[None], x[None])
    assert runner.stats().calls - before < len(xs) or not rows
