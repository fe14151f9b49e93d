"""Long work shows a progress bar: conversion, export, runs, the check matrix and warmup; sizes in bytes."""

from __future__ import annotations

import functools
import sys
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest

import jaxlstm
from jaxlstm import LSTMConfig, cli, save
from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import size
from jaxlstm.cli.run import files
from jaxlstm.inference import compile
from testing.command import CONFIG, Screen, sequences, write_long_sequence
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


def test_a_large_tensor_is_written_in_chunks(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    config = LSTMConfig(1, 1100)
    params = weights(config)
    save(tmp_path / "x.safetensors", params, config, progress=lambda *step: steps.append(step))
    done = [step[0] for step in steps]
    total = sum(array.nbytes for array in params.values())
    assert done == sorted(done)
    assert done[-1] == total
    assert {step[1:] for step in steps} == {(total, "writing x.safetensors")}
    # weight_hh has 19 MB and takes two chunks.
    assert len(done) == 7


def test_export(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    text = shown("export", checkpoint, "-o", tmp_path / "m.stablehlo", "--platforms", "cpu")
    assert "7/8 reading bias_hh_l1" in text
    assert "0/2 exporting for cpu" in text
    assert "1/2 comparing with jaxlstm.lstm" in text


def test_run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint.rename(tmp_path / "m.lstm")
    np.savez(tmp_path / "x.npz", **sequences())  # type: ignore[arg-type]
    monkeypatch.setattr(files, "BLOCK", 4)
    monkeypatch.setattr(files, "CHUNK_STEPS", 50)
    write_long_sequence(tmp_path / "x.npy")
    text = shown("run", checkpoint, "--input", tmp_path, "-o", f"{tmp_path}/out/")
    for done in (0, 4, 8, 9):
        assert f" {done}/9 sequences of x.npz (file 2 of 2)" in text
    for done in (0, 50, 100):
        assert f" {done}/120 steps of x.npy (file 1 of 2)" in text


def test_check_matrix(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = functools.partial(jaxlstm.check.verify_matrix, lengths=(1, 2), batches=(1,), against="oracle")
    monkeypatch.setattr(jaxlstm.check, "verify_matrix", quick)
    text = shown("check", checkpoint, "--matrix", "--backend", "cpu", "--dtype", "float32")
    assert "0/4 cpu: float32, batch 1, 1 step, jit" in text
    assert "3/4 cpu: float32, batch 1, 2 steps, no jit" in text
    assert "4/4 cpu: done" in text


def test_warmup() -> None:
    runner = compile(weights(CONFIG), CONFIG, max_length=32, max_batch=1, backend="scan")
    screen = Screen()
    with redirect_stderr(screen):
        runner.warmup()
    assert "0/2 compiling 16 steps of 1" in screen.getvalue()
    assert "1/2 compiling 32 steps of 1" in screen.getvalue()


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


def test_size() -> None:
    counts = (0, 999, 1000, 999_949, 999_950, 10**9, 5 * 10**15)
    expected = ("0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB", "5000.0 TB")
    assert tuple(map(size, counts)) == expected
