"""Random models with conditions, broadcasts and squeezes on sizes: equal to torch from size 0 on, or refused.

A program with its module is never refused: it exports the module again. A saved one and an artifact may be.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jaxlstm import from_module, load_program
from jaxlstm.inference.artifact import export_program
from jaxlstm.programs.errors import ProgramError
from testing.seeds import seeds

CONDITIONS = """
n == 1; n != 1; n > 1 and m < 3; n < 2 or m == 3; not n; n % 2 == 0; m and n % m == 0; m != 0 and n // m == 1
n * m > 6; 1 < n < 4; n - m == 1; n != 3; n >= m
"""
NUMBERS = "n % 3; min(n, 2); max(n, m) - 1; n**0.5; n / (m + 1); n == 1; (n % 2 == 0) * m"
PARTS = """
self.linear(y); self.lstm(y)[0]; nn.functional.scaled_dot_product_attention(y, y, y); y[:1].expand_as(y) + y
y @ (y.transpose(1, 2) @ y); y - y.mean(0, keepdim=True); torch.cat([y, y[:1]]); y + y[:, -1:]
y[-2:] * 2; y[:, 1:] - y[:, :-1]; y * torch.ones(1, y.shape[1], 1); y.reshape(y.shape[1], y.shape[0], 4)
y.transpose(0, 1).contiguous(); y + torch.arange(y.shape[1])[:, None]
y[:, (m - n) // 2 :]; y[: n - m // 2] + 1; y[:, n - m : m - n // 2]
y * (2 if y.transpose(0, 1).is_contiguous() else 3)
"""
ENDS = """
y; y.squeeze(); y.squeeze(0); y.squeeze(1) + 1; y.sum(1); y.flatten(0, 1)
y.amax(2) * torch.tensor(y.shape[1])
"""


class Model(nn.Module):
    """Two to four random steps on a tensor (n, m, 4), and a random end; ``steps`` is their code."""

    def __init__(self, rng: np.random.Generator, parts: str = PARTS) -> None:
        super().__init__()
        self.linear, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)

        def one_of(texts: str) -> str:
            return str(rng.choice(re.split(r"; |\n", texts.strip())))

        self.steps = []
        for _ in range(rng.integers(2, 5)):
            branch, added = f"y * 2 if {one_of(CONDITIONS)} else y * 3 + 1", f"y + ({one_of(NUMBERS)})"
            step = [branch, added, one_of(parts), one_of(parts)][rng.integers(4)]
            places = rng.permutation(2).tolist()
            self.steps.append(f"(lambda n, m: {step})(y.shape[{places[0]}], y.shape[{places[1]}])")
        self.steps.append(one_of(ENDS))
        self.functions = [eval(f"lambda self, y: {step}", globals()) for step in self.steps]

    def forward(self, y: Tensor) -> Tensor:
        """Run the steps."""
        for function in self.functions:
            y = function(self, y)
        return y


REFUSED = r"\[(guard|static-shape|node-failed|input-shape)\]|polymorphic shapes|Shape mismatch"


def _require_equal(actual: Any, expected: np.ndarray, what: str) -> None:
    assert np.shape(actual) == expected.shape, what
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-5, err_msg=what)


def _unless_refused(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except (ProgramError, ValueError) as error:
        if not re.search(REFUSED, str(error)):
            raise
        return None


@pytest.mark.parametrize("seed", seeds(fast=1, slow=100))
def test_random_models(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = Model(rng).eval()
    program = from_module(model, (torch.randn(*rng.integers(2, 5, 2).tolist(), 4),))
    program.save(tmp_path / "saved.pt2")
    saved = load_program(tmp_path / "saved.pt2")
    artifact = _unless_refused(export_program, tmp_path / "a.stablehlo", saved, platforms=["cpu"])
    others = {"saved": partial(jax.jit(saved), saved.params)}
    if artifact is not None:
        others["artifact"] = artifact.call
    sizes = [(1, 1), *rng.integers(0, 6, (5, 2)).tolist(), (1, int(rng.integers(2, 9)))]
    ran = 0
    for n, m in sizes:
        x = torch.randn(n, m, 4)
        try:
            expected = model(x).detach().numpy()
        except (RuntimeError, IndexError, ZeroDivisionError):  # torch refuses the sizes.
            continue
        ran += 1
        what = f"sizes {n}, {m} of {model.steps}"
        _require_equal(program(program.params, x.numpy()), expected, what)
        for name, call in others.items():
            if (result := _unless_refused(call, x.numpy())) is not None:
                _require_equal(result, expected, f"{name}, {what}")
    assert ran
