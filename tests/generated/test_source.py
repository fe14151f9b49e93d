"""Random models as written source: at any size and in both modes of JAX it equals torch, or it refuses."""

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
from testing.seeds import seeds
from testing.sized_models import PARTS, Model

OWN_PARTS = """self.halved(y); self.rows_of_a_loop(y); self.pair_of_states(y); self.new_floats(y)
y + y[:, -1:] - y[:, : y.shape[1] // 2].sum(1, keepdim=True); self.drop(self.linear(y))
self.lstm(y, (self.start[0][:, :1] + y[None, :, 0], y[None, :, -1]))[0]; y * 2 if n >= m else y
y * 2 if sorted([n, m])[0] == n else y * 3
"""


class SourceModel(Model):
    """A random model, also with loops, states of cells, a constant beside a layer, and floats of sizes."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng, f"{OWN_PARTS}{PARTS[1:]}")
        self.cell, self.pair, self.drop = nn.LSTMCell(1, 4), nn.LSTMCell(4, 4), nn.Dropout(0.3, inplace=True)
        self.start = (torch.randn(1, 7, 4), torch.zeros(1, 7, 4))

    def halved(self, y: Tensor) -> Tensor:
        n = y.shape[1]
        while n > 1:
            n //= 2
            y = y + n
        return y

    def rows_of_a_loop(self, y: Tensor) -> Tensor:
        """A loop over features, with rows relative to its end."""
        h = c = torch.zeros(y.shape[0], 4)
        outputs = [h]
        for k in range(4):
            h, c = self.cell(y[:, :, k].mean(1, keepdim=True), (h, c))
            outputs.append(h)
        return y + outputs[-1][:, None] + torch.stack(outputs, 1)[:, :-1].sum(1, keepdim=True)

    def pair_of_states(self, y: Tensor) -> Tensor:
        state = torch.stack([y[:, 0], y[:, -1].tanh()])
        h, c = self.pair(y.mean(1), (state[0], state[1]))
        return y + (h * c)[:, None]

    def new_floats(self, y: Tensor) -> Tensor:
        t = y.shape[1]
        along = torch.arange(t, dtype=torch.float32) / t + torch.linspace(0, 1, 4).mean()
        scale = (torch.tensor(y.shape[:2]) / 2).sum()
        return y + along[:, None] * scale + torch.where(y[:, :1] > 0, 0.5, 2.0)


@pytest.mark.parametrize("seed", seeds(fast=1, slow=100))
def test_written_source_is_right_or_refuses(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model, sizes = SourceModel(rng).eval(), rng.integers(2, 10, (8, 2)).tolist()
    program = jaxlstm.from_module(model, (torch.randn(*sizes[0], 4),))
    program.at_sizes = None
    files = SourceFiles.of(program, tmp_path / "model.py")
    files.write(overwrite=True)
    for is_wide in (False, True):
        with jax.enable_x64(is_wide):
            written: Any = load_written(files)
            for n, m in sizes:
                x = torch.randn(n, m, 4)
                try:
                    result = written(x.numpy())
                except AssertionError:
                    with pytest.raises(ProgramError):
                        program(program.params, x.numpy())
                    continue
                expected = model(x.clone()).detach().numpy()
                assert result.dtype == expected.dtype
                np.testing.assert_allclose(result, expected, rtol=2e-4, atol=2e-4, err_msg=files.text)
    training: Any = make_written(files)
    training.train()
    training(np.zeros((*sizes[0], 4), np.float32))
