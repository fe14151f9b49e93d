"""Files: what save writes load reads, bit for bit, and a write that fails leaves the old file."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
from jaxlstm_converters.lstm._load import load_numpy
from tests.support.kills import always_whole

FORMATS = {"safetensors": "m.safetensors", "msgpack": "m.msgpack", "orbax": "m_orbax"}
CONFIG = LSTMConfig(4, 5, num_layers=2, batch_first=True, dropout=0.25, proj_size=3)


def random_params(config: LSTMConfig, dtype: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = jaxlstm.param_shapes(config)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def same_bits(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(
        np.asarray(a[n]).dtype == np.asarray(b[n]).dtype
        and np.asarray(a[n]).tobytes() == np.asarray(b[n]).tobytes()
        for n in a
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("config", [CONFIG, LSTMCellConfig(4, 5, bias=False)], ids=["LSTM", "cell"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_save_writes_load_reads(
    format: str, config: LSTMConfig, dtype: Any, tmp_path: Path
) -> None:
    params = random_params(config, dtype)
    path = tmp_path / FORMATS[format]
    save(path, params, config)
    back, config_back = load_numpy(path)
    assert config_back == config
    assert same_bits(back, params)
    with jax.enable_x64(dtype is np.float64):
        back, config_back = load(path)
        assert config_back == config
        assert same_bits(back, params)
        assert all(isinstance(p, jax.Array) for p in back.values())
    save(path, random_params(config, dtype, seed=1), config)  # onto what is there
    assert same_bits(load_numpy(path)[0], random_params(config, dtype, seed=1))
    assert os.listdir(tmp_path) == [path.name]


def test_safetensors_is_what_the_library_reads(tmp_path: Path) -> None:
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
    module = torch.nn.LSTM(4, 5, 2, batch_first=True, dropout=0.25, proj_size=3)
    module.load_state_dict(
        {n.removeprefix("encoder.lstm."): torch.tensor(p) for n, p in theirs.items()}
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("config", [CONFIG, LSTMCellConfig(4, 5, bias=False)], ids=["LSTM", "cell"])
def test_a_torch_file_is_what_torch_reads(config: LSTMConfig, dtype: Any, tmp_path: Path) -> None:
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
    module: Any = (
        torch.nn.LSTMCell(4, 5, False) if config.input_size == 4 and not config.bias else None
    )
    module = module or torch.nn.LSTM(4, 5, 2, batch_first=True, proj_size=3)
    module.load_state_dict({n.removeprefix("encoder."): t for n, t in theirs.items()}, strict=True)
    back, config_back = load_numpy(path)
    assert same_bits(back, params)
    unsaid = {"batch_first": False, "dropout": 0.0} if config == CONFIG else {}
    assert config_back == dataclasses.replace(config, **unsaid)


def test_msgpack_is_what_flax_reads(tmp_path: Path) -> None:
    params = random_params(CONFIG, np.float32)
    save(tmp_path / "m.msgpack", params, CONFIG)
    tree: Any = flax.serialization.msgpack_restore((tmp_path / "m.msgpack").read_bytes())
    assert same_bits(tree["params"], params)
    x = np.ones((2, 3, 4), np.float32)
    fields = {k: v for k, v in tree["config"].items() if k != "type"}
    outputs, _ = jaxlstm.linen.LSTM(**fields).apply(
        {"params": tree["params"]}, x, deterministic=True
    )
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
def test_a_flax_tree_of_somebody_else_is_refused(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.msgpack"
    data = flax.serialization.msgpack_serialize(tree)
    path.write_bytes(data)
    with pytest.raises(jaxlstm.CheckpointError, match=r"not of jaxlstm|is no float array"):
        load(path)
    path.write_bytes(data[:-1])
    with pytest.raises(jaxlstm.CheckpointError, match="not Flax msgpack"):
        load(path)


def test_an_orbax_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    for metadata in ("[]", "{}", "not JSON", '{"custom_metadata": {"jaxlstm": {"type": "LSTM"}}}'):
        (tmp_path / "_CHECKPOINT_METADATA").write_text(metadata)
        with pytest.raises(jaxlstm.CheckpointError, match=r"not of jaxlstm|no JSON"):
            load(tmp_path)


@pytest.mark.parametrize("precious", ["folder", "file"])
def test_orbax_does_not_replace_what_it_did_not_write(precious: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if precious == "folder":
        path.mkdir()
        (path / "precious.txt").write_text("mine")
    else:
        path.write_text("mine")
    with pytest.raises(FileExistsError, match="is no Orbax directory"):
        save(path, random_params(CONFIG, np.float32), CONFIG)
    kept = path / "precious.txt" if precious == "folder" else path
    assert kept.read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


def test_metadata_of_somebody_else_does_not_stand_in_the_way(tmp_path: Path) -> None:
    params = random_params(LSTMConfig(4, 5), np.float32)
    safetensors.numpy.save_file(params, tmp_path / "m.safetensors", {"jaxlstm": "hello"})
    assert load(tmp_path / "m.safetensors")[1] == LSTMConfig(4, 5)


def test_a_prefix_for_a_file_of_one_lstm_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "m.msgpack", random_params(CONFIG, np.float32), CONFIG)
    for read in (load, load_numpy):
        with pytest.raises(ValueError, match="prefix must be None"):
            read(tmp_path / "m.msgpack", prefix="foo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "pickle"}, "format must be one of"),
        ({"format": None}, "format must be given for a path that ends in '.bin'"),
        ({"format": "msgpack", "prefix": "a."}, "prefix is for safetensors and torch files alone"),
        (
            {"format": "orbax", "metadata": {"a": "b"}},
            "metadata is for safetensors files alone",
        ),
        ({"format": "torch", "shard_bytes": 9}, "shard_bytes needs a path that ends in"),
    ],
)
def test_what_save_refuses(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "m.bin", random_params(CONFIG, np.float32), CONFIG, **arguments)
    with pytest.raises(ValueError, match="params do not fit"):
        save(tmp_path / "m.safetensors", {}, CONFIG)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.msgpack", "m_orbax"])
def test_what_the_caller_says_goes_before_what_the_file_says(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, random_params(CONFIG, np.float32), CONFIG)
    params, config = load(tmp_path / name, batch_first=False, dropout=0.5, dtype="bfloat16")
    assert config == dataclasses.replace(CONFIG, batch_first=False, dropout=0.5)
    assert {a.dtype for a in params.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert load(tmp_path / name)[1] == CONFIG


def test_several_lstms_need_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    model = {"a": torch.nn.LSTM(4, 5).state_dict(), "b": torch.nn.LSTM(3, 5).state_dict()}
    torch.save({"model_state": model, "epoch": 3}, path)
    assert list(jaxlstm.find_lstms(jaxlstm.read_checkpoint(path))) == [
        "model_state.a.",
        "model_state.b.",
    ]
    with pytest.raises(ValueError, match=r"'model_state.a.', 'model_state.b.'"):
        load(path)
    params, config = load(path, prefix="b", batch_first=True)
    assert config == LSTMConfig(3, 5, batch_first=True)
    np.testing.assert_array_equal(params["weight_ih_l0"], model["b"]["weight_ih_l0"].numpy())


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, random_params(CONFIG, np.float32), CONFIG)
    before = path.read_bytes()
    script = (
        "import resource, signal, sys, numpy as np\n"
        "from jaxlstm import LSTMConfig, param_shapes, save\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))\n"
        "config = LSTMConfig(200, 200)\n"
        "params = {n: np.zeros(s, np.float32) for n, s in param_shapes(config).items()}\n"
        "try:\n    save(sys.argv[1], params, config)\n"
        "except OSError as error:\n    print('refused', error.errno)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"  # for what coverage writes at the end
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("refused"), done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_a_whole_file(kills: int, tmp_path: Path) -> None:
    always_whole(tmp_path / "m.safetensors", kills, seconds=0.03)


def test_sixteen_writers_and_sixteen_readers_at_once(tmp_path: Path) -> None:
    """Every read is of one write, whole; nothing is left behind."""
    path = tmp_path / "m.safetensors"
    config = LSTMConfig(60, 60)
    shapes = jaxlstm.param_shapes(config)

    def write(value: int) -> None:
        for _ in range(5):
            save(path, {n: np.full(s, value, np.float32) for n, s in shapes.items()}, config)

    def read(_: int) -> set[float]:
        seen = set()
        for _ in range(5):
            params, _config = load_numpy(path)
            values = {float(v) for p in params.values() for v in np.unique(p)}
            assert len(values) == 1
            seen |= values
        return seen

    write(0)
    with ThreadPoolExecutor(32) as pool:
        writers = [pool.submit(write, k) for k in range(16)]
        readers = [pool.submit(read, k) for k in range(16)]
        assert set().union(*(r.result() for r in readers)) <= set(range(16))
        for writer in writers:
            writer.result()
    assert os.listdir(tmp_path) == [path.name]
