"""Several files and an index: what transformers' layout says, and whole at any moment."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from jaxlstm import save
from jaxlstm.cli import main
from jaxlstm_converters import write_shards
from jaxlstm_converters.load import load_numpy
from tests.converters.kills import always_whole
from tests.converters.test_files import CONFIG, random_params, same_bits

INDEX = "m.safetensors.index.json"


def files_beside(index: Path) -> set[str]:
    return {name for name in os.listdir(index.parent) if name != index.name}


def test_shards_hold_every_tensor_once_and_no_more_than_asked(tmp_path: Path) -> None:
    params = random_params(CONFIG, np.float32)
    index = tmp_path / INDEX
    save(index, params, CONFIG, prefix="lstm.", metadata={"by": "me"}, shard_bytes=600)
    told = json.loads(index.read_text())
    assert told["metadata"]["total_size"] == sum(p.nbytes for p in params.values())
    assert set(told["weight_map"].values()) == files_beside(index)
    assert len(files_beside(index)) > 2
    theirs: dict[str, Any] = {}
    for file in files_beside(index):
        shard = safetensors.numpy.load_file(tmp_path / file)
        assert len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= 600
        assert all(told["weight_map"][name] == file for name in shard)
        with safetensors.safe_open(tmp_path / file, "numpy") as opened:
            assert opened.metadata()["by"] == "me"
        theirs |= shard
    assert same_bits(theirs, {f"lstm.{name}": p for name, p in params.items()})
    back, config = load_numpy(index)
    assert config == CONFIG
    assert same_bits(back, params)


def test_a_new_index_takes_the_old_one_s_files_away_and_nobody_else_s(tmp_path: Path) -> None:
    index = tmp_path / INDEX
    for name in ("n-1-00001-of-00001.safetensors", "mine.safetensors"):
        (tmp_path / name).write_bytes(b"precious")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "mine.safetensors"}}))
    for seed in (0, 1):
        params = random_params(CONFIG, np.float32, seed)
        save(index, params, CONFIG, shard_bytes=600)
        assert same_bits(load_numpy(index)[0], params)
    named = set(json.loads(index.read_text())["weight_map"].values())
    precious = {"n-1-00001-of-00001.safetensors", "mine.safetensors"}
    assert files_beside(index) == named | precious


@pytest.mark.parametrize("fails_at", [1, 3, "index"])
def test_a_write_that_fails_leaves_the_old_files_alone(
    fails_at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / INDEX
    params = random_params(CONFIG, np.float32)
    save(index, params, CONFIG, shard_bytes=600)
    before = files_beside(index)
    write, calls = write_shards.write_atomically, []

    def failing(path: Path, parts: Any) -> None:
        calls.append(path)
        if len(calls) == fails_at or (fails_at == "index" and path == index):
            raise OSError("the disk is full")
        write(path, parts)

    monkeypatch.setattr(write_shards, "write_atomically", failing)
    with pytest.raises(OSError, match="the disk is full"):
        save(index, random_params(CONFIG, np.float32, 1), CONFIG, shard_bytes=600)
    assert files_beside(index) == before
    assert same_bits(load_numpy(index)[0], params)


def test_a_failure_behind_the_rename_leaves_the_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / INDEX
    save(index, random_params(CONFIG, np.float32), CONFIG, shard_bytes=600)
    write = write_shards.write_atomically

    def interrupted(path: Path, parts: Any) -> None:
        write(path, parts)
        if path == index:
            raise KeyboardInterrupt

    monkeypatch.setattr(write_shards, "write_atomically", interrupted)
    params = random_params(CONFIG, np.float32, 1)
    with pytest.raises(KeyboardInterrupt):
        save(index, params, CONFIG, shard_bytes=600)
    assert same_bits(load_numpy(index)[0], params)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_a_whole_set(kills: int, tmp_path: Path) -> None:
    always_whole(tmp_path / INDEX, kills, seconds=0.05, shard_bytes=10**5)


def test_the_command_writes_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = random_params(CONFIG, np.float32)
    save(tmp_path / "m.safetensors", params, CONFIG)
    out = tmp_path / "out"
    out.mkdir()
    command = ["port", str(tmp_path / "m.safetensors"), "-o", str(out / INDEX)]
    assert main([*command, "--shard-bytes", "600"]) == 0
    assert "every bit the same" in capsys.readouterr().out
    assert same_bits(load_numpy(out / INDEX)[0], params)
    assert main([*command, "--shard-bytes", "0"]) == 2
    assert "shard_bytes must be at least 1" in capsys.readouterr().err
