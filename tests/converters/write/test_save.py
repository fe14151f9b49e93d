"""``save`` writes every format bit for bit, as other libraries read it, and replaces only its own files.

It replaces a file in one step, and other files only with ``overwrite=True``. A write that fails or is killed
leaves the old or the new file, and concurrent writes do not mix.
"""

import dataclasses
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from jaxlstm import LSTMCellConfig, LSTMConfig, load, param_shapes, save
from jaxlstm_converters.lstm._load import read_lstm
from jaxlstm_converters.write._save import FORMATS, is_saved_file
from testing.inference import random_params
from testing.processes import run_python


def same_bits(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(
        np.asarray(a[n]).dtype == np.asarray(b[n]).dtype
        and np.asarray(a[n]).tobytes() == np.asarray(b[n]).tobytes()
        for n in a
    )


CONFIG = LSTMConfig(4, 5, num_layers=2, batch_first=True, dropout=0.25, proj_size=3)
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
CELL = LSTMCellConfig(4, 5, bias=False)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("config", [CONFIG, CELL], ids=["LSTM", "cell"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(suffix: str, config: LSTMConfig, dtype: Any, tmp_path: Path) -> None:
    params = random_params(config, dtype=dtype)
    path = tmp_path / f"m.{suffix}"
    save(path, random_params(config, 1, dtype=dtype), config)
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
    params = random_params(CONFIG)
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
    params = random_params(config, dtype=dtype)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "pickle"}, "format must be one of"),
        ({"format": None}, r"suffix '\.bin'; the formats are safetensors \(\.safetensors\), torch \(\.pt, "),
        ({"format": "torch", "metadata": {"a": "b"}}, "metadata is supported by safetensors files"),
        ({"format": "torch", "assumed": ["bias"]}, "assumed must name some of"),
        ({"format": "safetensors", "metadata": {"jaxlstm": ""}}, "must not have the key 'jaxlstm'"),
    ],
)
def test_invalid_arguments(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "m.bin", random_params(CONFIG), CONFIG, **arguments)
    with pytest.raises(ValueError, match="params do not fit"):
        save(tmp_path / "m.safetensors", {}, CONFIG)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_arguments_override_the_file(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, random_params(CONFIG), CONFIG)
    params, config = load(tmp_path / name, batch_first=False, dropout=0.5, dtype="bfloat16")
    assert config == dataclasses.replace(CONFIG, batch_first=False, dropout=0.5)
    assert {a.dtype for a in params.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert load(tmp_path / name)[1] == CONFIG


SMALL = LSTMConfig(2, 3)
OLD, NEW = (random_params(SMALL, seed) for seed in (0, 1))


def write_torch_again(path: Path) -> None:
    """Our file, read and saved again by torch, which may have added other tensors."""
    save(path, OLD, SMALL)
    torch.save(torch.load(path, weights_only=True), path)


def write_safetensors_with_our_metadata(path: Path) -> None:
    save(path, OLD, SMALL)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(OLD | {"head": np.ones(2)}, path, metadata)


FOREIGN = {
    "text": ("m.safetensors", lambda path: path.write_text("mine")),
    "torch": ("m.pt", lambda path: torch.save(OLD, path)),
    "torch, ours at first": ("m.pt", write_torch_again),
    "safetensors": ("m.safetensors", lambda path: safetensors.numpy.save_file(OLD, path)),
    "safetensors, our metadata": ("m.safetensors", write_safetensors_with_our_metadata),
}


@pytest.mark.parametrize(("name", "write"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("link", [False, True], ids=["file", "link"])
def test_another_file_needs_overwrite(name: str, write: Any, link: bool, tmp_path: Path) -> None:
    target = tmp_path / name
    write(target)
    before = target.read_bytes()
    path = tmp_path / f"link{target.suffix}" if link else target
    if link:
        path.symlink_to(target)
    with pytest.raises(FileExistsError, match="was not written by jaxlstm; choose another path"):
        save(path, NEW, SMALL)
    assert target.read_bytes() == before
    assert path.is_symlink() == link
    save(path, NEW, SMALL, overwrite=True)
    assert same_bits(load(path)[0], NEW)
    if link:  # the link was replaced, its target was not
        assert not path.is_symlink()
        assert target.read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_a_directory_is_never_replaced(link: bool, overwrite: bool, tmp_path: Path) -> None:
    path = tmp_path / "m"
    (tmp_path / "target").mkdir()
    path.symlink_to("target") if link else path.mkdir()
    with pytest.raises(FileExistsError, match="choose another path"):
        save(path, NEW, SMALL, format="safetensors", overwrite=overwrite)
    assert path.is_symlink() == link


def test_a_device_is_never_replaced() -> None:
    with pytest.raises(FileExistsError, match="not a regular file"):
        save(os.devnull, NEW, SMALL, format="safetensors", overwrite=True)


LARGE = LSTMConfig(60, 60)
FULL_DISK = """
import resource, signal, sys, numpy as np
from jaxlstm import LSTMConfig, param_shapes, save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
config = LSTMConfig(200, 200)
params = {n: np.zeros(s, np.float32) for n, s in param_shapes(config).items()}
try:
    save(sys.argv[1], params, config)
except OSError as error:
    print("OSError", error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # coverage writes a file at exit
"""


def constant_params(value: float) -> dict[str, np.ndarray]:
    return {n: np.full(s, value, np.float32) for n, s in param_shapes(LARGE).items()}


def read_constant(path: Path) -> float:
    """Load the file and return the value of all its elements."""
    params, config, *_ = read_lstm(path)
    assert config == LARGE
    (value,) = {float(v) for p in params.values() for v in np.unique(p)}
    return value


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, constant_params(1), LARGE)
    before = path.read_bytes()
    assert run_python("-c", FULL_DISK, path).startswith("OSError")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_is_old_until_it_is_renamed(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill leaves a whole file: all bytes are flushed before the rename, and the rename after it."""
    path, other = tmp_path / "m.file", tmp_path / "new"
    save(path, OLD, SMALL, format=format)
    save(other, NEW, SMALL, format=format)
    assert is_saved_file(path)
    kinds = {path.read_bytes(): "old", other.read_bytes(): "new"}
    steps = []

    def watched(function: Any) -> Any:
        def run(*arguments: Any) -> None:
            function(*arguments)
            steps.append((function.__name__, kinds.get(path.read_bytes(), "torn")))

        return run

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    save(path, NEW, SMALL, format=format)
    assert steps == [("fsync", "old"), ("replace", "new"), ("fsync", "new")]


def test_concurrent_writers_and_readers(tmp_path: Path) -> None:
    """Each read returns the file of one write, and no temporary file remains."""
    path = tmp_path / "m.safetensors"

    def write(value: int) -> None:
        for _ in range(5):
            save(path, constant_params(value), LARGE)

    save(path, constant_params(0), LARGE)
    with ThreadPoolExecutor(16) as pool:
        writers = [pool.submit(write, k) for k in range(8)]
        readers = [pool.submit(lambda: [read_constant(path) for _ in range(5)]) for _ in range(8)]
        assert {value for r in readers for value in r.result()} <= set(map(float, range(8)))
        for writer in writers:
            writer.result()
    assert os.listdir(tmp_path) == [path.name]
