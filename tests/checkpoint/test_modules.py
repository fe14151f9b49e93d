"""Pickled modules whose classes are not installed, and hyperparameters of unknown classes."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import assert_same_checkpoint

SOURCE = """
import enum
import torch

class Mode(enum.Enum):
    FAST = 1

class Config(dict):
    def __getattr__(self, name):
        return self[name]

class Tracker:
    def __init__(self):
        self.best = torch.ones(3)

class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 5)
        self.lstm = torch.nn.LSTM(5, 4, 2, batch_first=True, dropout=0.25, bidirectional=True)
        self.cells = torch.nn.ModuleList([torch.nn.LSTMCell(8, 3, bias=False)])
        self.head = torch.nn.Linear(3, 7)
        self.head.register_buffer("seen", torch.arange(3))
        self.head.register_buffer("scratch", torch.arange(4), persistent=False)
        self.register_parameter("nothing", None)
        self.config = Config(mode=Mode.FAST, owner=self)
        self.register_forward_hook(print)
"""


@pytest.fixture
def foreign() -> Iterator[Any]:
    """A module that exists while files are written and is removed before they are read."""
    module = types.ModuleType("their_project")
    exec(SOURCE, vars(module))
    sys.modules["their_project"] = module
    yield module
    sys.modules.pop("their_project", None)


@pytest.mark.parametrize(("zipped", "prefix"), [(True, ""), (False, ""), (True, "model.module.")])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_module(tmp_path: Path, foreign: Any, zipped: bool, prefix: str) -> None:
    module = foreign.Tagger()
    saved = {"model": torch.nn.DataParallel(module), "epoch": 1} if prefix else module
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    del sys.modules["their_project"]
    ours = read_checkpoint(tmp_path / "a.pt")
    assert_same_checkpoint(ours, {prefix + name: tensor for name, tensor in module.state_dict().items()})
    assert ours.hints == {f"{prefix}lstm.": {"batch_first": True, "dropout": 0.25}}


def test_an_integer_dropout_becomes_a_float(tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 4)
    lstm.dropout = 0
    torch.save(lstm, tmp_path / "a.pt")
    dropout = read_checkpoint(tmp_path / "a.pt").hints[""]["dropout"]
    assert (type(dropout), dropout) == (float, 0.0)


def test_lightning_checkpoint(tmp_path: Path, foreign: Any) -> None:
    """Hyperparameters of unknown classes become placeholders; the weights load."""
    module = foreign.Tagger()
    saved = {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": module.state_dict(),
        "hparams_name": "config",
        "hyper_parameters": foreign.Config(mode=foreign.Mode.FAST, rates={0.1, 0.2}),
        "callbacks": {foreign.Tracker: {"best": foreign.Tracker()}},
        "path": Path("somewhere"),
    }
    torch.save(saved, tmp_path / "a.ckpt")
    del sys.modules["their_project"]
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "a.ckpt", weights_only=True)
    ours = read_checkpoint(tmp_path / "a.ckpt")
    assert_same_checkpoint(ours, {f"state_dict.{name}": t for name, t in module.state_dict().items()})
    assert ours.warnings == ["1 tensors belong to objects of unknown classes and are skipped"]


def test_object_without_tensors(tmp_path: Path, foreign: Any) -> None:
    torch.save(foreign.Tracker(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"their_project\.Tracker.*\[foreign-root"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@pytest.mark.parametrize("form", ["state dict", "module", "TorchScript"])
def test_dynamically_quantized_lstm(tmp_path: Path, form: str) -> None:
    float_model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    module = torch.ao.quantization.quantize_dynamic(float_model, {torch.nn.LSTM})
    if form == "TorchScript":
        torch.jit.save(torch.jit.script(module), tmp_path / "a.pt")
    else:
        torch.save(module.state_dict() if form == "state dict" else module, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"_all_weight_values.*float model.*\[unsupported-tensor"):
        read_checkpoint(tmp_path / "a.pt")
