"""Tests of an unavailable backend are skipped, and an available backend gets all tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testing import each_backend


def rows(monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...]) -> dict[str, Any]:
    monkeypatch.setattr(each_backend, "absence", lambda name: "" if name in present else f"no {name}")
    mark = each_backend.on_each_backend("n", [1, 2, 3], on_cpu=[2])
    return {row.id: ([m.name for m in row.marks], row.values) for row in mark.args[1]}


def test_rows_of_available_and_unavailable_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows(monkeypatch, ("cpu", "gpu")) == {
        "cpu-2": ([], ("cpu", 2)),
        "gpu-1": (["gpu"], ("gpu", 1)),
        "gpu-2": (["gpu"], ("gpu", 2)),
        "gpu-3": (["gpu"], ("gpu", 3)),
        "tpu-3 tests": (["tpu"], ("tpu", 1)),
    }


def test_unavailable_backends_are_skipped() -> None:
    absent = [backend for backend in ("gpu", "tpu") if each_backend.absence(backend)]
    if not absent:
        pytest.skip("a GPU and a TPU are attached")
    marks = " or ".join(absent)
    command = [sys.executable, "-m", "pytest", "-q", "-m", marks, "tests/backends/test_batch.py"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " skipped" in done.stdout
    assert " passed" not in done.stdout
    for backend in absent:
        assert f"no {backend} here: " in done.stdout
