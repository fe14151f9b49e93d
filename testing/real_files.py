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
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.torch import load_file

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig
from jaxlstm.check import verify, verify_cell
from jaxlstm.check.cases.case import Case
from jaxlstm.check.reference.torch_lstm import TorchLSTM
from testing.cases import rms
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


TIME, BATCH = 40, 3
Arrays = tuple[np.ndarray, ...]


def assert_real_lstm_is_as_exact_as_torch(real: Real, prefix: str) -> None:
    """The RMS error in float32, relative to torch in float64, is at most twice torch's."""
    params, config = jaxlstm.load(real.path(), prefix=prefix, batch_first=False, dropout=0.0)
    rng = np.random.default_rng(0)
    x = realistic_inputs(real, config.input_size, rng)
    h_0, c_0 = (rng.uniform(-0.5, 0.5, shape).astype(np.float32) for shape in config.state_shapes(BATCH))
    state = h_0, c_0
    weights = {
        name.removeprefix(prefix): np.asarray(tensor)
        for name, tensor in real.read(real.path()).items()
        if name.startswith(prefix)
    }
    case, torch = Case("real", {"inputs": x, "h_0": h_0, "c_0": c_0}), TorchLSTM(weights, config)
    float32, float64 = (tuple(torch.run(case, dtype).outputs.values()) for dtype in (np.float32, np.float64))
    run = run_cell if is_cell(config) else run_lstm
    ours = run(params, config, x, state)
    assert [(array.shape, array.dtype) for array in ours] == [(a.shape, a.dtype) for a in float32]
    error, of_torch = (
        rms(np.concatenate([np.ravel(a - exact) for a, exact in zip(arrays, float64, strict=True)]))
        for arrays in (ours, float32)
    )
    assert error <= 2 * of_torch, f"RMS error {error:.2e}, torch's own error {of_torch:.2e}"
    assert max(np.abs(np.asarray(h)).max() for h in float64) > 0.3  # the outputs are not all close to zero


def assert_verdict_holds(real: Real, prefix: str) -> None:
    """``verify`` passes."""
    params, config = jaxlstm.load(real.path(), prefix=prefix, batch_first=False, dropout=0.0)
    numpy_params = {name: np.asarray(array) for name, array in params.items()}
    if is_cell(config):
        step = jax.jit(lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state))
        report = verify_cell(step, numpy_params, config, gradients=False)
    else:
        report = verify(None, numpy_params, config, gradients=False)
    assert report.ok, str(report)
    statuses = status(report)
    assert statuses["float64 semantics against torch"] == "ok"
    assert statuses["step residual"] == "ok"


def realistic_inputs(real: Real, input_size: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs (time, batch, input_size) like the layer's usual inputs: embeddings, spectra or features."""
    shape = (TIME, BATCH, input_size)
    if real.package == "g2pM":  # embeddings of random Chinese characters
        table = np.asarray(jaxlstm.read_checkpoint(real.path())["embedding.weight"])
        return table[rng.integers(len(table), size=shape[:2])]
    if real.package == "resemblyzer":  # mel energies: many small, few large
        return rng.gamma(0.3, 0.3, shape).astype(np.float32)
    normal = rng.standard_normal(shape).astype(np.float32)
    return np.maximum(normal, 0) if real.package == "silero-vad" else normal  # after a ReLU


def is_cell(config: LSTMConfig) -> bool:
    return isinstance(config, LSTMCellConfig)


def run_lstm(params: Any, config: LSTMConfig, x: np.ndarray, state: Any) -> Arrays:
    run = jax.jit(lambda x, state: jaxlstm.lstm(params, x, state, config=config))
    outputs, final = run(x.swapaxes(0, 1) if config.batch_first else x, state)
    outputs = np.asarray(outputs)
    return (outputs.swapaxes(0, 1) if config.batch_first else outputs, *map(np.asarray, final))


def run_cell(params: Any, config: LSTMConfig, x: np.ndarray, state: Any) -> Arrays:
    step = jax.jit(lambda x, state: jaxlstm.lstm_cell(params, x, state))
    h, c = (jnp.asarray(array[0]) for array in state)
    outputs = []
    for frame in x:
        h, c = step(frame, (h, c))
        outputs.append(np.asarray(h))
    return np.stack(outputs), np.asarray(h)[None], np.asarray(c)[None]
