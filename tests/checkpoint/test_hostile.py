"""Hostile files are refused with their code or read correctly, without side effects and within limits."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxlstm_converters.checkpoint import CODES, CheckpointError, read_checkpoint
from testing.hostile.corpus import CASES
from testing.hostile.formats import TORCH, File
from testing.hostile.mutation import FileCase
from testing.hostile.opcodes import WEIGHT
from testing.hostile.reader_process import ReaderProcess, assert_outcome


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReaderProcess]:
    """A process that reads checkpoints under limits of time and memory."""
    with ReaderProcess(tmp_path_factory.mktemp("reader")) as process:
        yield process


each_container = pytest.mark.parametrize("make", TORCH, ids=lambda make: make.label)


# Large pickles in other containers than zip archives.
LARGE = re.compile("-(legacy|pickle|TorchScript) .*(dicts|lists for|2,000,000 lists|28 levels|00,000 tuples)")
EACH = [pytest.param(case, marks=[pytest.mark.slow] * bool(LARGE.search(case.id))) for case in CASES]


@pytest.mark.parametrize("case", EACH, ids=lambda case: re.sub(r"[^\x20-\x7e]", "?", case.id))
def test_case(tmp_path: Path, reader: ReaderProcess, case: FileCase) -> None:
    expected = case.expected
    path = case.create(tmp_path)
    result = reader.ask(path, dict(expected.options))
    assert_outcome(result, expected)
    assert not list(tmp_path.rglob("PWNED"))
    assert not (reader.folder / "PWNED").exists()
    assert set(expected.codes.split()) <= CODES.keys()
    if expected.codes and path.is_relative_to(tmp_path):
        assert str(tmp_path) in result["line"]


def test_corpus_is_complete() -> None:
    """The corpus has every case but 38 (in test_find_lstms.py) and 40 (below), under unique names."""
    assert {case.expected.number for case in CASES} == set(range(47)) - {38, 40}
    assert len({case.id for case in CASES}) == len(CASES) > 1_200


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def _overwrite(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw)
    # A clock with a coarse resolution would not distinguish the two writes.
    os.utime(path, ns=(1, 1))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


each_change = pytest.mark.parametrize("change", [_touch, _overwrite, _cut], ids=lambda f: f.__name__)


@each_change
@each_container
def test_40_changed_before_reading_a_tensor(tmp_path: Path, make: type[File], change: Any) -> None:
    path = make().create(tmp_path)
    ours = read_checkpoint(path)
    change(path)
    with pytest.raises(CheckpointError, match=r"\[file-changed"):
        np.asarray(ours["w"])


@each_change
@each_container
def test_40_changed_while_opening(
    tmp_path: Path, make: type[File], change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes after the first read."""
    path = make().create(tmp_path)
    original, done = os.pread, []

    def pread(fd: int, count: int, offset: int) -> bytes:
        part = original(fd, count, offset)
        if not done:
            done.append(change(path))
        return part

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert done
    assert caught.value.code in ("file-changed", "truncated", "pickle-malformed")


def test_40_replaced_by_rename(tmp_path: Path) -> None:
    """A writer that replaces the file by renaming does not disturb a reader, which keeps the old bytes."""
    save_file({"w": WEIGHT}, tmp_path / "a")
    ours = read_checkpoint(tmp_path / "a")
    save_file({"w": WEIGHT * 2}, tmp_path / "b")
    os.replace(tmp_path / "b", tmp_path / "a")
    np.testing.assert_array_equal(ours["w"], WEIGHT)
