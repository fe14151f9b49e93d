"""Random models as written source: at any size and in both modes of JAX it equals torch, or it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.source._write_source import SourceFiles
from jaxlstm_converters.source.proof import load_written, make_written
from testing.modules import module_of
from testing.seeds import seeds

Block = Callable[[Any, Tensor], Tensor]
"""A function of the model and x of shape (batch, time, 4), which returns a tensor of the same shape."""

CONDITIONS: list[Callable[[int, int], bool]] = [
    lambda n, t: n % 2 == 0,
    lambda n, t: t % 3 != 1,
    lambda n, t: n > t,
    lambda n, t: n * t >= 12,
    lambda n, t: sorted([n, t])[0] == n,
    lambda n, t: t // 2 == 3,
    lambda n, t: n % t == 0,
]


def halved(model: Any, x: Tensor) -> Tensor:
    n = x.shape[1]
    while n > 1:
        n //= 2
        x = x + n
    return x


def steps(model: Any, x: Tensor) -> Tensor:
    """A loop over features, with rows relative to its end."""
    h = c = torch.zeros(x.shape[0], 4)
    outputs = [h]
    for k in range(4):
        h, c = model.cell(x[:, :, k].mean(1, keepdim=True), (h, c))
        outputs.append(h)
    y = torch.stack(outputs, 1)
    return x + outputs[-1][:, None] + y[:, :-1].sum(1, keepdim=True)


def stacked_state(model: Any, x: Tensor) -> Tensor:
    state = torch.stack([x[:, 0], x[:, -1].tanh()])
    h, c = model.pair(x.mean(1), (state[0], state[1]))
    return x + (h * c)[:, None]


def new_floats(model: Any, x: Tensor) -> Tensor:
    t = x.shape[1]
    along = torch.arange(t, dtype=torch.float32) / t + torch.linspace(0, 1, 4).mean()
    return x + along[:, None] * (torch.tensor(x.shape[:2]) / 2).sum() + torch.where(x[:, :1] > 0, 0.5, 2.0)


BLOCKS: list[Block] = [
    *(lambda model, x, test=test: x * 2 if test(*x.shape[:2]) else x + 1 for test in CONDITIONS),
    *(halved, steps, stacked_state, new_floats),
    lambda model, x: x + x[:, -1:] - x[:, : x.shape[1] // 2].sum(1, keepdim=True),
    lambda model, x: model.drop(model.linear(x)),
    lambda model, x: model.layer(x, (model.start[0][:, :1] + x[None, :, 0], x[None, :, -1]))[0],
]


def random_model(rng: np.random.Generator) -> nn.Module:
    """Return a model of three blocks."""
    blocks = [BLOCKS[k] for k in rng.choice(len(BLOCKS), 3)]

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in blocks:
            x = block(self, x)
        return x, x.shape[1] * torch.ones(2)

    parts = {"cell": nn.LSTMCell(1, 4), "pair": nn.LSTMCell(4, 4), "linear": nn.Linear(4, 4)}
    layer = nn.LSTM(4, 4, batch_first=True)
    model: Any = module_of(forward, drop=nn.Dropout(0.3, inplace=True), layer=layer, **parts)
    model.start = (torch.randn(1, 7, 4), torch.zeros(1, 7, 4))
    return model


@pytest.mark.parametrize("seed", seeds(fast=2, slow=100))
def test_written_source_is_right_or_refuses(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = random_model(rng)
    sizes = [(int(n), int(t)) for n, t in rng.integers(2, 10, (8, 2))]
    program = jaxlstm.from_module(model, (torch.randn(*sizes[0], 4),))
    program.at_sizes = None
    files = SourceFiles.of(program, tmp_path / "model.py")
    files.write(overwrite=True)
    for is_wide in (False, True):
        with jax.enable_x64(is_wide):
            written: Any = load_written(files)
            for n, t in sizes:
                x = torch.randn(n, t, 4)
                expected = [a.detach().numpy() for a in model(x.clone())]
                try:
                    results = written(x.numpy())
                except AssertionError:
                    with pytest.raises(ProgramError):
                        program(program.params, x.numpy())
                    continue
                for ours, theirs in zip(results, expected, strict=True):
                    assert ours.dtype == theirs.dtype
                    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4, err_msg=files.text)
    training: Any = make_written(files)
    training.train()
    training(np.zeros((*sizes[0], 4), np.float32))
