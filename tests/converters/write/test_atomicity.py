"""A write that fails or is killed leaves the old file, and concurrent writes do not mix."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jaxlstm import LSTMConfig, param_shapes, save
from jaxlstm_converters.lstm._load import read_lstm
from testing.kills import kills
from testing.processes import run_python

CONFIG = LSTMConfig(60, 60)
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
    return {n: np.full(s, value, np.float32) for n, s in param_shapes(CONFIG).items()}


def read_constant(path: Path) -> float:
    """Load the file and return the value of all its elements."""
    params, config, *_ = read_lstm(path)
    assert config == CONFIG
    (value,) = {float(v) for p in params.values() for v in np.unique(p)}
    return value


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, constant_params(1), CONFIG)
    before = path.read_bytes()
    assert run_python("-c", FULL_DISK, path).startswith("OSError")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="fork and kill -9 are POSIX")
@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_a_kill_leaves_the_old_or_the_new_file(format: str, tmp_path: Path) -> None:
    killed = kills(format, tmp_path / "m.file")
    steps, left = zip(*killed, strict=True)
    renamed = steps.index("after replace")
    assert left == ("old",) * renamed + ("new",) * (len(left) - renamed)
    # Everything is written and flushed before the rename, which is flushed too.
    flushed = ["before fsync", "after fsync"]
    renames = [*flushed, "before replace", "after replace", *flushed, "end"]
    writes = steps[2 : -len(renames)]
    assert [*steps[:2], *steps[-len(renames) :]] == ["before open", "after open", *renames]
    assert writes == ("amid write", "after write") * (len(writes) // 2) != ()


@pytest.mark.skipif(sys.platform == "win32", reason="fork and kill -9 are POSIX")
def test_kills_find_a_writer_that_is_not_atomic(tmp_path: Path) -> None:
    left = dict(kills("in place", tmp_path / "m.file"))
    assert left["after open"] == left["amid write"] == "torn"
    assert (left["before open"], left["end"]) == ("old", "new")


def test_concurrent_writers_and_readers(tmp_path: Path) -> None:
    """Each read returns the file of one write, and no temporary file remains."""
    path = tmp_path / "m.safetensors"

    def write(value: int) -> None:
        for _ in range(5):
            save(path, constant_params(value), CONFIG)

    save(path, constant_params(0), CONFIG)
    with ThreadPoolExecutor(16) as pool:
        writers = [pool.submit(write, k) for k in range(8)]
        readers = [pool.submit(lambda: [read_constant(path) for _ in range(5)]) for _ in range(8)]
        assert {value for r in readers for value in r.result()} <= set(map(float, range(8)))
        for writer in writers:
            writer.result()
    assert os.listdir(tmp_path) == [path.name]
