"""``save`` writes every format bit for bit, in the form that torch, flax and safetensors read."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import flax.serialization
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

FORMATS = {"safetensors": "m.safetensors", "npz": "m.npz", "msgpack": "m.msgpack", "orbax": "m_orbax"}
CONFIG = LSTMConfig(4, 5, num_layers=2, batch_first=True, dropout=0.25, proj_size=3)
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
NUMPYS_OWN = (np.float16, np.float32, np.float64)
CELL = LSTMCellConfig(4, 5, bias=False)


# Every dtype, every config and every format, but not every combination: Orbax takes half a second.
@pytest.mark.parametrize(
    ("format", "config", "dtype"),
    [
        *(("safetensors", config, dtype) for config in (CONFIG, CELL) for dtype in DTYPES),
        *(("msgpack", CONFIG, dtype) for dtype in DTYPES),
        *(("npz", config, dtype) for config in (CONFIG, CELL) for dtype in DTYPES if dtype in NUMPYS_OWN),
        ("msgpack", CELL, np.float32),
        ("orbax", CONFIG, ml_dtypes.bfloat16),
        ("orbax", CELL, np.float64),
    ],
)
def test_round_trip(format: str, config: LSTMConfig, dtype: Any, tmp_path: Path) -> None:
    params = random_params(config, dtype)
    path = tmp_path / FORMATS[format]
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
    with pytest.raises(TypeError, match=r"float64 in a \.npz file, got bfloat16; choose another format"):
        save(path, random_params(CONFIG, ml_dtypes.bfloat16), CONFIG)


@pytest.mark.parametrize("text", [np.array(["jaxlstm"]), np.array(3.0), np.array("not JSON"), np.array("{}")])
def test_npz_of_another_program(text: np.ndarray, tmp_path: Path) -> None:
    """An array named jaxlstm may be anything."""
    params = random_params(LSTMConfig(4, 5), np.float32)
    np.savez(tmp_path / "m.npz", jaxlstm=text, **params)  # type: ignore[arg-type]
    assert load(tmp_path / "m.npz", batch_first=True)[1] == LSTMConfig(4, 5, batch_first=True)


def test_flax_reads_a_msgpack_file(tmp_path: Path) -> None:
    params = random_params(CONFIG, np.float32)
    save(tmp_path / "m.msgpack", params, CONFIG)
    tree: Any = flax.serialization.msgpack_restore((tmp_path / "m.msgpack").read_bytes())
    assert same_bits(tree["params"], params)
    x = np.ones((2, 3, 4), np.float32)
    fields = {k: v for k, v in tree["config"].items() if k != "type"}
    outputs, _ = jaxlstm.linen.LSTM(**fields).apply({"params": tree["params"]}, x, deterministic=True)
    np.testing.assert_array_equal(outputs, jaxlstm.lstm(params, x, config=CONFIG)[0])


@pytest.mark.parametrize(
    "tree",
    [
        {"params": {}, "config": {}},
        {"params": 3, "config": {}},
        {"params": {}, "config": 3},
        {"params": {}, "config": {"type": ["LSTM"]}},
        {"params": {"weight_ih": np.zeros((4, 1), np.int64)}, "config": {"type": "LSTMCell"}},
    ],
    ids=str,
)
def test_msgpack_of_another_program(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.msgpack"
    data = flax.serialization.msgpack_serialize(tree)
    path.write_bytes(data)
    with pytest.raises(jaxlstm.CheckpointError, match=r"not written by jaxlstm|must be a floating"):
        load(path)
    path.write_bytes(data[:-1])
    with pytest.raises(jaxlstm.CheckpointError, match="invalid Flax msgpack"):
        load(path)


def test_orbax_directory_of_another_program(tmp_path: Path) -> None:
    for metadata in ("[]", "{}", "not JSON", '{"custom_metadata": {"jaxlstm": {"type": "LSTM"}}}'):
        (tmp_path / "_CHECKPOINT_METADATA").write_text(metadata)
        with pytest.raises(jaxlstm.CheckpointError, match="not written by jaxlstm"):
            load(tmp_path)


def test_metadata_of_another_program_is_ignored(tmp_path: Path) -> None:
    params = random_params(LSTMConfig(4, 5), np.float32)
    safetensors.numpy.save_file(params, tmp_path / "m.safetensors", {"jaxlstm": "hello"})
    assert load(tmp_path / "m.safetensors", batch_first=False)[1] == LSTMConfig(4, 5)


def test_a_flax_file_takes_no_prefix(tmp_path: Path) -> None:
    save(tmp_path / "m.msgpack", random_params(CONFIG, np.float32), CONFIG)
    for read in (load, read_lstm):
        with pytest.raises(ValueError, match="prefix must be None"):
            read(tmp_path / "m.msgpack", prefix="foo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "pickle"}, "format must be one of"),
        ({"format": None}, r"cannot infer the format from the suffix '\.bin'"),
        ({"format": "msgpack", "prefix": "a."}, "prefix is supported by safetensors, torch and npz"),
        ({"format": "orbax", "metadata": {"a": "b"}}, "metadata is supported by safetensors files"),
        ({"format": "safetensors", "metadata": {"jaxlstm": ""}}, "must not have the key 'jaxlstm'"),
    ],
)
def test_invalid_arguments(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "m.bin", random_params(CONFIG, np.float32), CONFIG, **arguments)
    with pytest.raises(ValueError, match="params do not fit"):
        save(tmp_path / "m.safetensors", {}, CONFIG)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.npz", "m.msgpack", "m_orbax"])
def test_arguments_override_the_file(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, random_params(CONFIG, np.float32), CONFIG)
    params, config = load(tmp_path / name, batch_first=False, dropout=0.5, dtype="bfloat16")
    assert config == dataclasses.replace(CONFIG, batch_first=False, dropout=0.5)
    assert {a.dtype for a in params.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert load(tmp_path / name)[1] == CONFIG


def test_several_lstms_need_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    model = {"a": torch.nn.LSTM(4, 5).state_dict(), "b": torch.nn.LSTM(3, 5).state_dict()}
    torch.save({"model_state": model, "epoch": 3}, path)
    assert list(jaxlstm.find_lstms(jaxlstm.read_checkpoint(path))) == ["model_state.a.", "model_state.b."]
    with pytest.raises(ValueError, match=r"'model_state.a.', 'model_state.b.'"):
        load(path)
    params, config = load(path, prefix="b", batch_first=True)
    assert config == LSTMConfig(3, 5, batch_first=True)
    np.testing.assert_array_equal(params["weight_ih_l0"], model["b"]["weight_ih_l0"].numpy())
