"""A program says which line of the model fixes an axis or makes a condition, and keeps it in its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm.programs.errors import ProgramError


class Positions(nn.Module):
    """A parameter fixes the time axis, a branch bounds the batch, and a squeeze the height."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(7, 4))

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + self.positions
        if x.shape[0] > 4:
            x = x * 2
        columns = nn.functional.max_pool2d(image, 2)
        return x, columns.squeeze(1) if columns.shape[1] == 1 else columns


class Steps(nn.Module):
    """A loop over time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x[0]
        for t in range(x.shape[0]):
            total = torch.tanh(total + x[t])
        return total


@pytest.mark.parametrize("saved", [False, True])
def test_lines_of_the_model(saved: bool, tmp_path: Path) -> None:
    program = jaxlstm.from_module(Positions(), (torch.randn(6, 7, 4), torch.randn(6, 3, 10)))
    if saved:
        program.save(tmp_path / "model.pt2")
        torch.export.load(tmp_path / "model.pt2")
        program = jaxlstm.load_program(tmp_path / "model.pt2")
    x, image = program.inputs
    assert x.type is not None
    assert x.type.shape[1:] == (7, 4)
    assert "test_model_lines.py:24: x = x + self.positions" in x.fixed[1]
    listed = str(program)
    assert f"axis 1 of x is fixed: {x.fixed[1]}" in listed
    assert "2 to 3 (the condition" in listed
    assert (
        "test_model_lines.py:28: return x, columns.squeeze(1) if columns.shape[1] == 1 else columns" in listed
    )
    images = np.ones((6, 3, 10), np.float32)
    with pytest.raises(
        ProgramError, match=r"must have size 7.*got 8.*Reason: .*:24: x = x \+ self.positions"
    ):
        program(program.params, np.ones((6, 8, 4), np.float32), images)
    with pytest.raises(ProgramError, match=r"from 2 to 3, got 4 because of .*:28: return x, columns"):
        program(program.params, np.ones((6, 7, 4), np.float32), np.ones((6, 4, 10), np.float32))
    with pytest.raises(ProgramError, match=r"at least 5, got 3"):
        program(program.params, np.ones((3, 7, 4), np.float32), images[:3])
    assert image.fixed == {}


def test_a_loop_over_time_is_named() -> None:
    program = jaxlstm.from_module(Steps(), (torch.randn(5, 2),))
    with pytest.raises(ProgramError, match=r"must have size 5.*for t in range\(x.shape\[0\]\):"):
        program(program.params, np.ones((6, 2), np.float32))


def test_an_axis_of_one() -> None:
    program = jaxlstm.from_module(nn.Linear(2, 3), (torch.randn(1, 2),))
    with pytest.raises(ProgramError, match=r"Reason: torch\.export fixes an axis that has the size 0 or 1"):
        program(program.params, np.ones((2, 2), np.float32))
