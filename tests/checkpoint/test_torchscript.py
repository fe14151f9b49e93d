"""TorchScript archives give parameters and buffers under the names of state_dict()."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jaxlstm_converters.checkpoint import read_checkpoint
from testing.checkpoints.compare import assert_same_bits

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch.jit.\w+` is:DeprecationWarning")


class ScriptedTagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(5, 4, 2, bidirectional=True)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 3), torch.nn.Linear(3, 2)])
        self.register_buffer("seen", torch.arange(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lstm(x)[0]
        for layer in self.layers:
            y = layer(y)
        return y


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_names_and_bits(tmp_path: Path, how: str) -> None:
    module = ScriptedTagger()
    make = {"script": torch.jit.script, "trace": lambda m: torch.jit.trace(m, torch.ones(2, 3, 5))}
    compiled = make[how](module)
    torch.jit.save(compiled, tmp_path / "a.pt")
    ours = read_checkpoint(tmp_path / "a.pt")
    assert ours.container == "TorchScript"
    constants = {name for name in ours if name.startswith("CONSTANTS.")}
    assert ours.keys() - constants == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert_same_bits(ours[name], tensor)


def test_frozen_module(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2).eval()
    torch.jit.save(torch.jit.freeze(torch.jit.script(module)), tmp_path / "a.pt")
    ours = read_checkpoint(tmp_path / "a.pt")
    assert all(name.startswith("CONSTANTS.c") for name in ours)
    arrays = [np.asarray(tensor).tolist() for tensor in ours.values()]
    assert module.weight.tolist() in arrays
    assert module.bias.tolist() in arrays
