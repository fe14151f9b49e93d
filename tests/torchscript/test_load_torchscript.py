"""Archives of every kind as modules: TorchScript's values, free sizes, gradients, clean layers."""

from pathlib import Path
from typing import Any

import jax
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from testing.gradients import assert_close, require_equal
from testing.written import assert_holds, written_program

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated", "ignore:Converting a tensor")


class Tagger(nn.Module):
    """Layers of torch, sizes in arithmetic, and a second method."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True)
        self.body = nn.Sequential(nn.Linear(10, 3), nn.ReLU(), nn.BatchNorm1d(3))
        self.conv = nn.Conv1d(3, 2, 3, padding=1)
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(self.embedding(x))
        batch, length, _ = h.shape
        y = self.body(h.reshape(batch * length, -1)).reshape(batch, length, 3)
        return self.conv(y.transpose(1, 2)) * self.scale + torch.arange(length) * (length // 2)

    @torch.jit.export
    def embed(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.embedding(x) * scale


X, OTHER = torch.arange(15).reshape(3, 5) % 11, torch.arange(28).reshape(4, 7) % 11
WAYS = {
    "script": torch.jit.script,
    "trace": lambda module: torch.jit.trace(module, X),
    "freeze": lambda module: torch.jit.freeze(torch.jit.script(module)),
    "optimize": lambda module: torch.jit.optimize_for_inference(torch.jit.script(module)),
}


@pytest.fixture(scope="module")
def tagger() -> nn.Module:
    torch.manual_seed(0)
    return Tagger().eval()


@pytest.mark.parametrize("way", WAYS)
def test_values_of_torch_at_other_sizes(tagger: nn.Module, way: str, tmp_path: Path) -> None:
    script = WAYS[way](tagger)
    script.save(str(tmp_path / "tagger.jit"))
    module = jaxlstm.load_torchscript(tmp_path / "tagger.jit")
    torch.testing.assert_close(module(X), tagger(X), rtol=0, atol=1e-6)
    program = jaxlstm.from_module(script, (X,))
    if way in ("script", "trace"):
        assert module.state_dict().keys() == program.params.keys() | program.buffers.keys()
        require_equal(program, tagger, OTHER, atol=2e-5)
    else:  # Their weights are constants.
        assert not program.params
        assert_close(jax.jit(program)(program.params, OTHER.numpy()), tagger(OTHER), 1e-5)


def test_layers_of_torch_and_clean_source(tagger: nn.Module) -> None:
    module = jaxlstm.load_torchscript(torch.jit.script(tagger))
    kinds = {name: type(part) for name, part in tagger.named_modules() if name}
    assert {name: type(part) for name, part in module.named_modules() if name} == kinds
    written = written_program(jaxlstm.from_module(module, (X,)))
    assert "jaxlstm.nnx.LSTM(" in written.text
    assert "jaxlstm.programs" not in written.text
    assert_holds(written, X)


def test_a_method_of_a_script(tagger: nn.Module) -> None:
    script: Any = torch.jit.script(tagger)
    module: Any = jaxlstm.load_torchscript(script)
    for program in (
        jaxlstm.from_module(script, (X,), method="embed"),
        jaxlstm.from_module(script.embed, (X,)),
        jaxlstm.from_module(module.embed, (X,)),
    ):
        assert_close(program(program.params, OTHER.numpy()), script.embed(OTHER), 1e-6)
