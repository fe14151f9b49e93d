"""Long work shows a progress bar, Ctrl-C leaves no partial file, and large checkpoints are not read whole."""

import os
import signal
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jaxlstm import cli
from jaxlstm._shared.progress import progress_bar
from jaxlstm.cli.run import files
from jaxlstm_converters.lstm._load import read_lstm
from testing.command import CONFIG, Screen, jaxlstm_command, sequences, write_long_sequence
from testing.inference import weights
from testing.processes import run_python


def shown(*arguments: object) -> str:
    """Return the text that a command writes to standard error, on a terminal."""
    screen = Screen()
    with redirect_stderr(screen):
        assert cli.main([str(argument) for argument in arguments]) == 0
    return screen.getvalue()


@pytest.fixture(autouse=True)
def plain_bar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich, the bar is a line of text for each step."""
    if "rich" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "rich.progress", None)


@pytest.mark.parametrize("output", ["x.safetensors", "x.pt"])
def test_convert(output: str, checkpoint: Path, tmp_path: Path) -> None:
    text = shown("convert", checkpoint, "-o", tmp_path / output)
    nbytes = sum(array.nbytes for array in weights(CONFIG).values())
    assert "0/8 reading weight_ih_l0" in text
    assert "7/8 reading bias_hh_l1" in text
    assert f"0/{nbytes} writing {output}" in text
    assert f"{nbytes}/{nbytes} writing {output}" in text
    assert text.count("reading weight_ih_l0") == 2  # the input, and the output for the comparison
    assert text.endswith("\r\033[K")


def test_run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint.rename(tmp_path / "m.lstm")
    np.savez(tmp_path / "x.npz", **sequences())  # type: ignore[arg-type]
    monkeypatch.setattr(files, "CHUNK_STEPS", 50)
    write_long_sequence(tmp_path / "x.npy")
    text = shown("run", checkpoint, "--input", tmp_path, "-o", f"{tmp_path}/out/", "--batch-size", 4)
    for done in (0, 4, 8, 9):
        assert f" {done}/9 sequences of x.npz (file 2 of 2)" in text
    for done in (0, 50, 100):
        assert f" {done}/120 steps of x.npy (file 1 of 2)" in text


@pytest.mark.parametrize("rich", ["with rich", "without"])
def test_a_progress_bar_is_removed_at_the_end(rich: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if rich == "without":
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    raised = pytest.raises(ValueError, match="broke")
    with raised as caught, redirect_stderr(screen), progress_bar() as bar:
        bar(1, 3, "things")
        raise ValueError("broke")
    assert "things" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K" if rich == "with rich" else "\r\x1b[K")
    assert caught.value.__context__ is None  # not raised while an ImportError of rich is handled


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """Handle SIGINT as a program in the foreground does: workers of pytest-xdist ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, function: str, call: int) -> None:
    """Send this process SIGINT at a call of a function of ``os``, as Ctrl-C does."""
    real, left = getattr(os, function), [call]

    def interrupted(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(os, function, interrupted)


@pytest.mark.parametrize(
    ("command", "output", "function", "call"),
    [
        ("convert", "x.safetensors", "fsync", 1),
        ("convert", "x.safetensors", "replace", 1),
        ("convert", "x.pt", "fsync", 1),
        ("export", "x.stablehlo", "fsync", 1),
        # The weights are written; the artifact is not.
        ("export --weights beside", "x.stablehlo", "fsync", 2),
        ("export --weights beside", "x.stablehlo", "replace", 1),
        ("run --input x.npz", "y.npz", "fsync", 1),
        ("run --input x.npz", "y.npz", "replace", 1),
    ],
)
def test_no_file_remains(
    command: str,
    output: str,
    function: str,
    call: int,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if command.startswith("export"):
        pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    name, *options = command.split()
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", **sequences())  # type: ignore[arg-type]
    interrupt_at(monkeypatch, function, call)
    done = jaxlstm_command(name, checkpoint, "-o", output, *options)
    assert (done.status, done.out, done.err) == (130, "", f"jaxlstm {name}: interrupted\n")
    assert sorted(os.listdir()) == [checkpoint.name, "x.npz"]


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


def test_memory_of_convert(tmp_path: Path) -> None:
    """The command holds at most two copies of the LSTM at a time, and nothing else of the model."""
    state = state_dict(800, 60 * MIB)
    path = write(state, tmp_path / "m.pt")
    lstm_bytes = sum(t.nbytes for name, t in state.items() if name.startswith("lstm."))
    tracemalloc.start()
    assert cli.main(["convert", str(path), "-o", str(tmp_path / "o.safetensors")]) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lstm_bytes < peak < 2 * lstm_bytes + 8 * MIB


def test_no_framework_is_imported(tmp_path: Path) -> None:
    path = write(state_dict(8, 16), tmp_path / "m.pt")
    program = Path(__file__).parents[2] / "examples" / "demo.pt2"
    script = (
        "import sys\nfrom jaxlstm.cli import main\nfrom jaxlstm_converters.pt2._read_pt2 import read_pt2\n"
        "read_pt2(sys.argv[2])\n"
        "assert main(['inspect', sys.argv[1]]) == 0\n"
        "assert main(['convert', sys.argv[1], '-o', sys.argv[1] + '.safetensors']) == 0\n"
        "assert main(['convert', sys.argv[1], '-o', sys.argv[1] + '.pt']) == 0\n"
        "print(*(m for m in ('jax', 'flax', 'torch', 'rich') if m in sys.modules))"
    )
    assert run_python("-c", script, path, program).splitlines()[-1] == ""
