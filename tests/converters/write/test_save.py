"""``save`` writes every format bit for bit, in the form that torch, numpy and safetensors read."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig, load, save
from jaxlstm_converters.lstm._load import read_lstm
from testing.saved_params import random_params, same_bits

CONFIG = LSTMConfig(4, 5, num_layers=2, batch_first=True, dropout=0.25, proj_size=3)
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
CELL = LSTMCellConfig(4, 5, bias=False)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz"])
@pytest.mark.parametrize("config", [CONFIG, CELL], ids=["LSTM", "cell"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(suffix: str, config: LSTMConfig, dtype: Any, tmp_path: Path) -> None:
    params = random_params(config, dtype)
    path = tmp_path / f"m.{suffix}"
    if suffix == "npz" and dtype is ml_dtypes.bfloat16:
        with pytest.raises(TypeError, match=r"float64 in a \.npz file, got bfloat16; choose another format"):
            save(path, params, config)
        return
    save(path, random_params(config, dtype, seed=1), config)
    save(path, params, config)  # replaces a file of save
    back, config_back, *_ = read_lstm(path)
    assert config_back == config
    assert same_bits(back, params)
    with jax.enable_x64(dtype is np.float64):
        back, config_back = load(path)
        assert config_back == config
        assert same_bits(back, params)
        assert all(isinstance(p, jax.Array) for p in back.values())
    assert os.listdir(tmp_path) == [path.name]


def test_safetensors_reads_a_safetensors_file(tmp_path: Path) -> None:
    params = random_params(CONFIG, np.float32)
    path = tmp_path / "m.safetensors"
    save(path, params, CONFIG, prefix="encoder.lstm.", metadata={"by": "me"})
    theirs = safetensors.numpy.load_file(path)
    assert same_bits(theirs, {f"encoder.lstm.{name}": p for name, p in params.items()})
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["by"] == "me"
    back, config = load(path)
    assert config == CONFIG
    assert same_bits(back, params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [CONFIG, CELL], ids=["LSTM", "cell"])
def test_torch_reads_a_torch_file(config: LSTMConfig, dtype: Any, tmp_path: Path) -> None:
    params = random_params(config, dtype)
    path = tmp_path / "m.pt"
    save(path, params, config, prefix="encoder.")
    for mmap in (False, True):
        theirs = torch.load(path, weights_only=True, mmap=mmap)
        assert list(theirs) == [f"encoder.{name}" for name in params]
        for name, array in params.items():
            tensor = theirs[f"encoder.{name}"]
            assert str(tensor.dtype) == f"torch.{array.dtype}"
            assert tensor.view(torch.uint8).numpy().tobytes() == array.tobytes()
    module = (
        torch.nn.LSTMCell(4, 5, False)
        if config is CELL
        else torch.nn.LSTM(4, 5, 2, batch_first=True, proj_size=3)
    )
    module.load_state_dict({n.removeprefix("encoder."): t for n, t in theirs.items()}, strict=True)
    back, config_back, *_ = read_lstm(path)
    assert same_bits(back, params)
    assert config_back == config


def test_numpy_reads_an_npz_file(tmp_path: Path) -> None:
    params = random_params(CONFIG, np.float32)
    path = tmp_path / "m.npz"
    save(path, params, CONFIG, prefix="lstm.")
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays.files == [*(f"lstm.{name}" for name in params), "jaxlstm"]
        assert same_bits({name: arrays[f"lstm.{name}"] for name in params}, params)
        assert json.loads(arrays["jaxlstm"].item())["prefix"] == "lstm."
    checkpoint = jaxlstm.read_checkpoint(path)
    assert "jaxlstm" not in checkpoint
    assert not checkpoint.warnings
    first = path.read_bytes()
    save(path, params, CONFIG, prefix="lstm.")
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "pickle"}, "format must be one of"),
        ({"format": None}, r"suffix '\.bin'; the formats are safetensors \(\.safetensors\), torch \(\.pt, "),
        ({"format": "npz", "metadata": {"a": "b"}}, "metadata is supported by safetensors files"),
        ({"format": "safetensors", "metadata": {"jaxlstm": ""}}, "must not have the key 'jaxlstm'"),
    ],
)
def test_invalid_arguments(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "m.bin", random_params(CONFIG, np.float32), CONFIG, **arguments)
    with pytest.raises(ValueError, match="params do not fit"):
        save(tmp_path / "m.safetensors", {}, CONFIG)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.npz"])
def test_arguments_override_the_file(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, random_params(CONFIG, np.float32), CONFIG)
    params, config = load(tmp_path / name, batch_first=False, dropout=0.5, dtype="bfloat16")
    assert config == dataclasses.replace(CONFIG, batch_first=False, dropout=0.5)
    assert {a.dtype for a in params.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert load(tmp_path / name)[1] == CONFIG
