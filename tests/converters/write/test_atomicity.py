"""A write that fails or is killed leaves the old file, and concurrent writes do not mix."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jaxlstm import LSTMConfig, param_shapes, save
from jaxlstm_converters.lstm._load import load_numpy

CONFIG = LSTMConfig(60, 60)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
# Each child is a fork, so that Python and NumPy are imported once.
WRITER = """
import itertools, os, sys, numpy as np
from jaxlstm import LSTMConfig, param_shapes, save
config = LSTMConfig(60, 60)
save(sys.argv[1], {n: np.zeros(s, np.float32) for n, s in param_shapes(config).items()}, config)
for line in sys.stdin:
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)
        for k in itertools.count():
            params = {n: np.full(s, k, np.float32) for n, s in param_shapes(config).items()}
            save(sys.argv[1], params, config)
    os.waitpid(child, 0)
    print("done", flush=True)
"""
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
    params, config = load_numpy(path)
    assert config == CONFIG
    (value,) = {float(v) for p in params.values() for v in np.unique(p)}
    return value


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, constant_params(1), CONFIG)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("OSError"), done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_leave_a_complete_file(kills: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    rng = np.random.default_rng(0)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(kills):
            parent.stdin.write("\n")
            child = int(parent.stdout.readline())
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "done\n"
            read_constant(path)
        parent.stdin.close()


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
