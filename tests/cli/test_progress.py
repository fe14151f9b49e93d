"""Long work shows a progress bar, and Ctrl-C ends it with one line and without a partial file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm import LSTMConfig, cli
from jaxlstm._shared.progress import progress_bar
from jaxlstm.cli.run import files
from jaxlstm.inference import artifact, compile
from testing.command import CONFIG, Screen, jaxlstm_command, sequences, write_long_sequence
from testing.inference import normal, weights


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


@pytest.mark.parametrize("output", ["x.safetensors", "x.pt", "x.npz"])
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
    monkeypatch.setattr(files, "BLOCK_BATCHES", 1)
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


def test_progress_can_be_turned_off() -> None:
    """No bar is shown, and none is nested, which older versions of rich reject."""
    config = LSTMConfig(5, 12)
    runner = compile(weights(config), config, max_length=16, max_batch=2)
    screen = Screen()
    with redirect_stderr(screen):
        runner.warmup(progress=False)
        runner.map([normal(3, 5)] * 5, 2, progress=False)
    assert screen.getvalue() == ""


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


def test_no_unverified_artifact_remains(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    monkeypatch.setattr(artifact, "read_weights", lambda *_: signal.raise_signal(signal.SIGINT))
    done = jaxlstm_command("export", checkpoint, "-o", tmp_path / "x.stablehlo", "--weights", "beside")
    assert (done.status, done.err) == (130, "jaxlstm export: interrupted\n")
    assert os.listdir(tmp_path) == [checkpoint.name]
