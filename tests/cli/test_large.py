"""An LSTM in a large checkpoint: the commands read only its bytes, and import no framework."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jaxlstm import cli, read_checkpoint, save
from jaxlstm_converters.lstm._load import read_lstm
from testing.processes import peak_memory, run_python

MIB = 1 << 20


def state_dict(hidden_size: int, other: int) -> dict[str, torch.Tensor]:
    """Return an LSTM between two vectors of ``other`` bytes."""
    lstm = torch.nn.LSTM(hidden_size, hidden_size)
    return {
        "before": torch.ones(other // 4),
        **{f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()},
        "after": torch.ones(other // 4),
    }


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path


@pytest.mark.parametrize("file", ["m.pt", "m.safetensors", "m.legacy"])
def test_only_the_lstm_is_read(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_dict(32, 4 * MIB)
    path = write(state, tmp_path / file)
    inode, read, pread, preadv = os.stat(path).st_ino, [], os.pread, os.preadv

    def counted(fd: int, count: int, offset: int) -> bytes:
        data = pread(fd, count, offset)
        if os.fstat(fd).st_ino == inode:
            read.append(len(data))
        return data

    def counted_into(fd: int, targets: list[memoryview], offset: int) -> int:
        count = preadv(fd, targets, offset)
        if os.fstat(fd).st_ino == inode:
            read.append(count)
        return count

    monkeypatch.setattr(os, "pread", counted)
    monkeypatch.setattr(os, "preadv", counted_into)
    assert cli.main(["inspect", str(path)]) == 0
    assert 0 < sum(read) < 200_000  # the names of the tensors, in windows of 64 KiB
    read.clear()
    assert cli.main(["convert", str(path), "-o", str(tmp_path / "o.safetensors")]) == 0
    lstm_bytes = sum(t.nbytes for name, t in state.items() if name.startswith("lstm."))
    assert lstm_bytes <= sum(read) < lstm_bytes + 200_000
    for name, array in read_lstm(tmp_path / "o.safetensors").params.items():
        assert array.tobytes() == state[f"lstm.{name}"].numpy().tobytes(), name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems report peak memory in other units")
def test_memory_of_convert(tmp_path: Path) -> None:
    """The process needs at most 64 MiB and two copies of the LSTM."""
    state = state_dict(800, 60 * MIB)
    path = write(state, tmp_path / "m.pt")
    lstm_bytes = sum(t.nbytes for name, t in state.items() if name.startswith("lstm."))
    assert lstm_bytes > 20e6
    arguments = ["-m", "jaxlstm", "convert", str(path), "-o", str(tmp_path / "o.safetensors")]
    assert 2 * lstm_bytes < peak_memory(arguments) <= 64 * MIB + 2 * lstm_bytes


def test_no_framework_is_imported(tmp_path: Path) -> None:
    path = write(state_dict(8, 16), tmp_path / "m.pt")
    script = (
        "import sys\nfrom jaxlstm.cli import main\n"
        "assert main(['inspect', sys.argv[1]]) == 0\n"
        "assert main(['convert', sys.argv[1], '-o', sys.argv[1] + '.safetensors']) == 0\n"
        "assert main(['convert', sys.argv[1], '-o', sys.argv[1] + '.pt']) == 0\n"
        "print(*(m for m in ('jax', 'flax', 'torch', 'rich') if m in sys.modules))"
    )
    assert run_python("-c", script, path).splitlines()[-1] == ""


@pytest.mark.parametrize("file", ["m.pt", "m.safetensors"])
def test_an_open_checkpoint_can_be_replaced(file: str, tmp_path: Path) -> None:
    """Tensors of the replaced file stay readable."""
    state = state_dict(8, 64)
    path = write(state, tmp_path / file)
    opened = read_checkpoint(path)
    params, config, *_ = read_lstm(path)
    save(path, {name: opened[f"lstm.{name}"] for name in params}, config, overwrite=True)
    for name in params:
        expected = state[f"lstm.{name}"].numpy().tobytes()
        assert np.asarray(opened[f"lstm.{name}"]).tobytes() == expected
        assert read_lstm(path).params[name].tobytes() == params[name].tobytes() == expected
    assert os.listdir(tmp_path) == [file]
