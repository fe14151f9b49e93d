"""torch models as a reference: sizes and programs that torch does not take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jaxlstm.check._verify_model import _refusal
from jaxlstm.check.cases.case import Case
from jaxlstm.check.reference.torch_model import TorchModel


class Operator(torch.nn.Module):
    """An LSTM as in an exported program: without the checks of ``nn.LSTM``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = list(self.lstm.parameters())
        state = [x.new_zeros(1, x.shape[1], 8)] * 2
        return torch.ops.aten.lstm.input(x, state, weights, True, 1, 0.0, False, False, False)[0]


@pytest.mark.parametrize(("size", "refused"), [(6, False), (1, True)])
def test_sizes_that_only_float32_takes_are_refused(size: int, refused: bool) -> None:
    case = Case.of_model("example", (np.ones((4, 2, size), np.float32),), {})
    assert bool(_refusal(TorchModel(Operator()), case)) == refused


def test_program_that_torch_cannot_run() -> None:
    module = torch.nn.Sequential()
    module.add_module("meta", torch.nn.Linear(2, 3))
    program = torch.export.export(module, (torch.ones(1, 2),))
    with pytest.raises(ValueError, match=r"torch cannot run this exported program: .* Pass the live module"):
        TorchModel(program)
