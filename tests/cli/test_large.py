"""An LSTM among much else: the commands read its bytes and no others, and import no framework for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jaxlstm import cli, read_checkpoint, save
from jaxlstm_converters.lstm._load import load_numpy

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def state_dict(hidden_size: int, other: int) -> dict[str, torch.Tensor]:
    """An LSTM between two matrices of `other` bytes each."""
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
def test_what_is_no_lstm_is_not_read(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_dict(32, 4 * MIB)
    path = write(state, tmp_path / file)
    identity, read, original = os.stat(path).st_ino, [], os.pread

    def counted(fd: int, count: int, offset: int) -> bytes:
        part = original(fd, count, offset)
        if os.fstat(fd).st_ino == identity:
            read.append(len(part))
        return part

    monkeypatch.setattr(os, "pread", counted)
    assert cli.main(["inspect", str(path)]) == 0
    assert 0 < sum(read) < 200_000  # what names the tensors, by windows of 64 KiB
    read.clear()
    assert cli.main(["convert", str(path), "-o", str(tmp_path / "o.safetensors")]) == 0
    lstm_bytes = sum(t.nbytes for name, t in state.items() if name.startswith("lstm."))
    assert lstm_bytes <= sum(read) < lstm_bytes + 200_000
    for name, array in load_numpy(tmp_path / "o.safetensors")[0].items():
        assert array.tobytes() == state[f"lstm.{name}"].numpy().tobytes(), name


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in other units elsewhere")
def test_memory_of_convert(tmp_path: Path) -> None:
    """At most 64 MiB and two copies of the LSTM, the interpreter included."""
    state = state_dict(800, 60 * MIB)
    path = write(state, tmp_path / "m.pt")
    lstm_bytes = sum(t.nbytes for name, t in state.items() if name.startswith("lstm."))
    assert lstm_bytes > 20e6
    arguments = ["-m", "jaxlstm", "convert", str(path), "-o", str(tmp_path / "o.safetensors")]
    # A process counts as large as the one that it was forked from: hence one small one between.
    script = f"from benchmarks.checkpoint import run\nprint(run({arguments!r}).peak_bytes)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 2 * lstm_bytes < int(done.stdout) <= 64 * MIB + 2 * lstm_bytes


def test_no_framework_is_imported(tmp_path: Path) -> None:
    path = write(state_dict(8, 16), tmp_path / "m.pt")
    script = (
        "import sys\nfrom jaxlstm.cli import main\n"
        "assert main(['inspect', sys.argv[1]]) == 0\n"
        "assert main(['convert', sys.argv[1], '-o', sys.argv[1] + '.safetensors']) == 0\n"
        "assert main(['convert', sys.argv[1], '-o', sys.argv[1] + '.pt']) == 0\n"
        "print(*(m for m in ('jax', 'flax', 'torch', 'onnx', 'rich') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("file", ["m.pt", "m.safetensors"])
def test_an_open_checkpoint_can_be_replaced(file: str, tmp_path: Path) -> None:
    """A new file takes the place of the old one, whose lazy tensors stay readable."""
    state = state_dict(8, 64)
    path = write(state, tmp_path / file)
    opened = read_checkpoint(path)
    params, config = load_numpy(path)
    save(path, {name: opened[f"lstm.{name}"] for name in params}, config, overwrite=True)
    for name in params:
        theirs = state[f"lstm.{name}"].numpy().tobytes()
        assert np.asarray(opened[f"lstm.{name}"]).tobytes() == theirs
        assert load_numpy(path)[0][name].tobytes() == params[name].tobytes() == theirs
    assert os.listdir(tmp_path) == [file]


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--matrices", "2", "--rounds", "1"]
    subprocess.run([*command, "--json", str(out)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(out.read_text())
    assert found["lstm_bytes"] == 20_680_704
    assert len(found["goals"]) == 3
    assert all(cost["seconds"] > 0 for cost in found["results"].values())
