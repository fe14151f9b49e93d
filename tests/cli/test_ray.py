"""``jaxlstm run --engine ray`` and a BatchPredictor in Ray Data, on a cluster of two nodes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm.inference import BatchPredictor
from jaxlstm.inference.rows import LSTMRows
from testing.command import sequences, write_sequences
from testing.pages import blocks
from testing.processes import python_environment, run_python

ray = pytest.importorskip("ray", reason="`make test-ray` installs it")
cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
parquet = pytest.importorskip("pyarrow.parquet")
FILES = 16


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, and two nodes, each in its own processes.

    Each has a CPU for a worker, and one for the tasks that read and write.
    """
    monkeypatch.setenv("PYTHONPATH", python_environment()["PYTHONPATH"])
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint, files in ``in/``, and the results without Ray in ``local/``."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(FILES):
        rows = {f"{number} {name}": number * x for name, x in sequences().items()}
        write_sequences(Path(f"in/{number:02}.parquet"), rows)
    # With AMX, the last bits of a row depend on the number of rows in its batch.
    monkeypatch.setenv("JAXLSTM_AMX", "0")
    run_python("-m", "jaxlstm", "run", checkpoint, "--input", "in", "-o", "local/")
    return tmp_path


def start(cluster: Any, *options: str) -> subprocess.Popen[str]:
    command = ["run", "m.safetensors", "--input", "in/*.parquet", "-o", "out/", "--engine", "ray"]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxlstm", *command, "--address", cluster.address, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_whole() -> None:
    """The same files as from one process, to the last bit, and no others."""
    files = [path.name for path in sorted(Path("local").iterdir())]
    assert len(files) == FILES
    assert sorted(path.name for path in Path("out").iterdir()) == files
    for name in files:
        assert Path("out", name).read_bytes() == Path("local", name).read_bytes()


def kill_a_worker(cluster: Any) -> None:
    """Kill the process of a worker, found by the title that Ray gives it."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        if b"MapWorker" in process.read_bytes():
            os.kill(int(process.parent.name), signal.SIGKILL)
            return
    raise AssertionError("there is no worker")


def remove_a_node(cluster: Any) -> None:
    cluster.remove_node(cluster.nodes[0], allow_graceful=False)


SLOW = """
import time
from jaxlstm.inference import rows
run = rows.LSTMRows.results
def slow(self, given):
    time.sleep(1)
    return run(self, given)
rows.LSTMRows.results = slow
"""


@pytest.mark.parametrize("loss", [kill_a_worker, remove_a_node])
def test_every_row_is_there_once_after_a_loss(
    loss: Callable[[Any], None], folder: Path, cluster: Any
) -> None:
    Path("slow.py").write_text(SLOW)  # run by each worker, which shows that --operators reaches them
    run = start(cluster, "--workers", "2", "--operators", "slow.py")
    while not list(Path("out").glob("*.parquet")):
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)
    loss(cluster)
    assert len(list(Path("out").glob("*.parquet"))) < FILES
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert_whole()


def test_bad_input(folder: Path, cluster: Any) -> None:
    """The error of a worker is one line."""
    write_sequences(Path("in/x.parquet"), {"x": np.zeros((3, 4), np.float32)})
    run = start(cluster, "--workers", "1")
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 2
    assert "row 0 of column 'inputs' has shape (3, 4), expected (time, 5)" in errors.splitlines()[-1]
    assert not Path("out/x.parquet").exists()


def test_predictor_in_ray_data(folder: Path, cluster: Any) -> None:
    """The code of docs/scale.md. A worker with one CPU runs one thread."""
    (code,) = [block for block in blocks("scale.md", "") if "map_batches" in block]
    code = code.replace("checkpoint.pt", "m.safetensors").replace(
        "jaxlstm.inference.BatchPredictor", "Threads"
    )
    ray.init(cluster.address, log_to_driver=False)
    try:
        exec(code, {"ray": ray, "Threads": Threads})
    finally:
        ray.shutdown()
    actual, expected = (parquet.read_table(name).sort_by("id") for name in ("out", "local"))
    assert set(actual["threads"].to_pylist()) == {1}
    assert actual["outputs"].to_pylist() == expected["outputs"].to_pylist()


class Threads(BatchPredictor):
    """Adds a column with the number of threads that the model runs on."""

    def __call__(self, batch: Any) -> Any:
        assert isinstance(self.model, LSTMRows)
        threads = self.model.runner._engine.settings.threads
        return super().__call__(batch).append_column("threads", [[threads] * len(batch)])
