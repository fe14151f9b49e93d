"""Random models with conditions, broadcasts and squeezes on sizes: equal to torch at sizes from 0 on, or refused.

A program with its module is never refused: it exports the module again. A saved one and an artifact may be.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jaxlstm import from_module, load_program
from jaxlstm.inference.program_artifact import export_program
from jaxlstm.programs.errors import ProgramError
from testing.seeds import seeds

CONDITIONS: list[Callable[[Any, Any], Any]] = [
    lambda n, m: n == 1,
    lambda n, m: n != 1,
    lambda n, m: n > 1 and m < 3,
    lambda n, m: n < 2 or m == 3,
    lambda n, m: not n,
    lambda n, m: n % 2 == 0,
    lambda n, m: m and n % m == 0,
    lambda n, m: m != 0 and n // m == 1,
    lambda n, m: n * m > 6,
    lambda n, m: 1 < n < 4,
    lambda n, m: n - m == 1,
    lambda n, m: n != 3,
]
NUMBERS: list[Callable[[Any, Any], Any]] = [
    lambda n, m: n % 3,
    lambda n, m: min(n, 2),
    lambda n, m: max(n, m) - 1,
    lambda n, m: n**0.5,
    lambda n, m: n / (m + 1),
    lambda n, m: n == 1,
    lambda n, m: (n % 2 == 0) * m,
]
PARTS: list[Callable[[Tensor], Tensor]] = [
    lambda y: y[:1].expand_as(y) + y,
    lambda y: y - y.mean(0, keepdim=True),
    lambda y: torch.cat([y, y[:1]]),
    lambda y: y + y[:, -1:],
    lambda y: y[-2:] * 2,
    lambda y: y[:, 1:] - y[:, :-1],
    lambda y: y * torch.ones(1, y.shape[1], 1),
    lambda y: y.reshape(y.shape[1], y.shape[0], 4),
    lambda y: y.transpose(0, 1).contiguous(),
    lambda y: y + torch.arange(y.shape[1])[:, None],
    lambda y: y @ (y.transpose(1, 2) @ y),
]
ENDS: list[Callable[[Tensor], Tensor]] = [
    lambda y: y,
    lambda y: y.squeeze(),
    lambda y: y.squeeze(0),
    lambda y: y.squeeze(1) + 1,
    lambda y: y.sum(1),
    lambda y: y.flatten(0, 1),
    lambda y: y.amax(2) * torch.tensor(y.shape[1]),
]


class Model(nn.Module):
    """Two to four random steps on a tensor (n, m, 4), and a random end."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.linear, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)
        self.steps = [self.step(rng) for _ in range(rng.integers(2, 5))]
        self.last = ENDS[rng.integers(len(ENDS))]

    def step(self, rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
        """Return a random step."""
        kind, place = rng.integers(4), rng.permutation(2).tolist()

        def sizes(y: Tensor) -> tuple[Any, Any]:
            return y.shape[place[0]], y.shape[place[1]]

        if kind == 0:
            condition = CONDITIONS[rng.integers(len(CONDITIONS))]
            return lambda y: y * 2 if condition(*sizes(y)) else y * 3 + 1
        if kind == 1:
            number = NUMBERS[rng.integers(len(NUMBERS))]
            return lambda y: y + number(*sizes(y))
        layers: list[Callable[[Tensor], Tensor]] = [
            self.linear,
            lambda y: self.lstm(y)[0],
            lambda y: nn.functional.scaled_dot_product_attention(y, y, y),
        ]
        choices = [*layers, *PARTS]
        return choices[rng.integers(len(choices))]

    def forward(self, y: Tensor) -> Tensor:
        """Run the steps."""
        for step in self.steps:
            y = step(y)
        return self.last(y)


def _require_equal(actual: Any, expected: np.ndarray, what: str) -> None:
    assert np.shape(actual) == expected.shape, what
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-5, err_msg=what)


@pytest.mark.parametrize("seed", seeds(fast=3, slow=100))
def test_random_models(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = Model(rng).eval()
    program = from_module(model, (torch.randn(*rng.integers(2, 5, 2).tolist(), 4),))
    program.save(tmp_path / "saved.pt2")
    saved = load_program(tmp_path / "saved.pt2")
    artifact: Any = None
    try:
        artifact = export_program(tmp_path / "a.stablehlo", saved, platforms=["cpu"])
    except ProgramError as error:
        assert error.code in ("guard", "static-shape", "node-failed", "input-shape"), error
    sizes = [(1, 1), *rng.integers(0, 6, (5, 2)).tolist(), (1, int(rng.integers(2, 9)))]
    ran = 0
    for n, m in sizes:
        x = torch.randn(n, m, 4)
        try:
            expected = model(x).detach().numpy()
        except (RuntimeError, IndexError, ZeroDivisionError):  # torch refuses the sizes.
            continue
        ran += 1
        what = f"sizes {n}, {m}"
        _require_equal(program(program.params, x.numpy()), expected, what)
        try:
            _require_equal(jax.jit(saved)(saved.params, x.numpy()), expected, f"saved, {what}")
        except ProgramError as error:
            assert error.code in ("guard", "static-shape", "node-failed", "input-shape"), error
        if artifact is not None:
            try:
                _require_equal(artifact.call(x.numpy()), expected, f"artifact, {what}")
            except ValueError as error:
                assert re.search("polymorphic shapes|Shape mismatch", str(error)), f"{what}: {error}"
    assert ran
