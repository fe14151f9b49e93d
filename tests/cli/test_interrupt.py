"""Ctrl-C: one line, exit status 130, and no partial file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm.inference import artifact
from testing.command import jaxlstm_command, sequences


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
