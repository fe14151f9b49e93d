"""Settings that a state dict lacks come from the graph of a program, or from the file of its weights."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from flax import nnx
from torch import nn

import jaxlstm
from jaxlstm_converters.layer_kinds import read_settings
from jaxlstm_converters.porting_warning import PortingWarning
from jaxlstm_converters.pt2 import _read_pt2
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from jaxlstm_converters.pt2.layer_settings import layer_settings
from testing.command import jaxlstm_command
from testing.exported import save
from testing.modules import module_of


def normalized(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.rnn(self.group(self.norm(x)).mT)[0] * self.same[0] + torch.tensor([1.0, 2.0, 3.0])


class Port(nnx.Module):
    """The same layers in Flax."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        exact: Any = {"use_fast_variance": False, "rngs": rngs}
        self.norm = nnx.BatchNorm(4, epsilon=1e-3, momentum=0.8, use_running_average=True, **exact)
        self.group = nnx.GroupNorm(4, 2, epsilon=1e-4, **exact)
        self.rnn = jaxlstm.nnx.RNN(4, 3, nonlinearity="relu", rngs=rngs)


SETTINGS = {
    "norm": {"eps": 1e-3, "momentum": 0.2},
    "group": {"eps": 1e-4, "num_groups": 2},
    "rnn": {"batch_first": False, "nonlinearity": "relu"},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers whose arguments differ from torch's defaults, a constant, and weights that no port needs."""
    path, norm = tmp_path_factory.mktemp("settings") / "a.pt2", nn.BatchNorm1d(4, eps=1e-3, momentum=0.2)
    parts = {"group": nn.GroupNorm(2, 4, eps=1e-4), "rnn": nn.RNN(4, 3, nonlinearity="relu")}
    model = module_of(normalized, norm=norm, **parts, unused=nn.Linear(2, 2), same=norm.weight)
    save(path, model, torch.randn(2, 4, 5))
    return path


def test_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors of the program are read once, like the tensors of any checkpoint."""
    assert layer_settings(read_pt2(path).graph) == SETTINGS
    monkeypatch.delattr(_read_pt2, "_read_arrays")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jaxlstm.load_state_dict(Port(), path).complete
        wrong = Port()
        wrong.group.epsilon = 1e-5
        with pytest.raises(
            PortingWarning, match=r"group: epsilon=1e-05, but the torch layer's eps is 0.0001"
        ):
            jaxlstm.load_state_dict(wrong, path)


def convolutions(self: Any, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    x = self.up(self.around(self.conv(x)))
    x = nn.functional.conv1d(self.norm(x), self.weight, padding="same")
    return x.sum() + self.table(rows)


def test_inspect_and_load_know_the_settings(tmp_path: Path) -> None:
    """Settings that the shapes leave open, also of weights that no module of torch holds."""
    model = module_of(
        convolutions,
        conv=nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        around=nn.Conv1d(6, 6, 3, padding=1, padding_mode="circular"),
        up=nn.ConvTranspose1d(6, 4, 3, groups=2, output_padding=0, dilation=2),
        weight=nn.Parameter(torch.rand(2, 4, 3)),
        table=nn.Embedding(5, 4, padding_idx=2),
        norm=nn.GroupNorm(1, 4),
    )
    path = tmp_path / "a.pt2"
    save(path, model, torch.randn(2, 4, 9), torch.arange(5))
    listed = jaxlstm_command("inspect", path, "--all").out
    for line in (
        "conv    Conv1d           4 -> 6, kernel_size=3, stride=2, padding=1, groups=2",
        "around  Conv1d           6 -> 6, kernel_size=3 ",
        "up      ConvTranspose1d  6 -> 4, kernel_size=3, dilation=2, groups=2",
        "(root)  Conv1d           4 -> 2, kernel_size=3, bias=False, padding=same",
        "table   Embedding        num_embeddings=5, embedding_dim=4, padding_idx=2",
        "norm    GroupNorm        num_channels=4, num_groups=1, eps=1e-05",
    ):
        assert line in listed, listed
    assert "not recorded" not in listed
    assert "also fit" not in listed

    class Port(nnx.Module):
        def __init__(self) -> None:
            groups: Any = {"feature_group_count": 2, "rngs": nnx.Rngs(0)}
            self.conv = nnx.Conv(4, 6, 3, padding=1, **groups)
            self.around = nnx.Conv(6, 6, 3, padding="CIRCULAR", rngs=nnx.Rngs(0))

    with pytest.warns(PortingWarning) as warned:
        jaxlstm.load_state_dict(Port(), path, strict=False)
    found = str(warned[0].message)
    assert "conv: strides=(1,), but the torch layer has stride=(2,)" in found
    assert "around" not in found


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "[" * 100_000, "1e999"])
def test_hostile_texts(text: str) -> None:
    assert read_settings(text) == {}


def test_hostile_values() -> None:
    row = {"eps": "1", "momentum": True, "num_groups": 1.5, "batch_first": 1, "nonlinearity": [], "a": 1}
    assert read_settings(json.dumps({"norm": row, "ok": {"eps": 0.5}})) == {"norm.": {}, "ok.": {"eps": 0.5}}
