"""``jaxlstm run``: every format in and out, files of one job, kills, and memory."""

import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from jaxlstm import LSTMConfig, lstm, read_checkpoint, save
from jaxlstm._shared.files import written_whole
from jaxlstm.cli.run import files
from testing.command import (
    CONFIG,
    SUFFIXES,
    assert_outputs,
    jaxlstm_command,
    run,
    sequences,
    write_long_sequence,
    write_sequences,
)
from testing.inference import reference, weights
from testing.processes import python_environment

parquet = pytest.importorskip("pyarrow.parquet", reason="some of the files are Parquet files")
BLOCK = {str(k): x[:1] for k, x in enumerate(sequences().values())}


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the results of a file by name, as ``NAME`` and ``NAME.h_n``."""
    if path.suffix == ".npy":
        return {str(k): array for k, array in enumerate(np.load(path))}
    if path.suffix == ".parquet":
        leaves = {"outputs": "", "h_n": ".h_n", "c_n": ".c_n"}
        return {
            row.get("name", row.get("id")) + leaves[leaf]: np.array(row[leaf])
            for row in parquet.read_table(path).to_pylist()
            for leaf in leaves.keys() & row
        }
    arrays = np.load(path) if path.suffix == ".npz" else read_checkpoint(path)
    return {name: np.asarray(array) for name, array in arrays.items()}


@pytest.mark.parametrize("output", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_formats(source: str, output: str, checkpoint: Path, tmp_path: Path) -> None:
    inputs = BLOCK if ".npy" in (source, output) else sequences()
    write_sequences(tmp_path / f"x{source}", inputs)
    options = () if output == ".npy" else ("--states",)
    block = ("--batch-size", "2")
    status = run(checkpoint, tmp_path / f"x{source}", tmp_path / f"y{output}", *options, *block)
    if output == ".npy" != source:
        assert status == 2
        return
    assert status == 0
    written = read(tmp_path / f"y{output}")
    if source == ".parquet" != output:  # the number of a row is its name
        inputs = {str(k): x for k, x in enumerate(inputs.values())}
    assert len(written) == len(inputs) * (3 if options else 1)
    for name, x in inputs.items():
        assert_outputs(name, written[name], x)
        if options:
            _, state = reference(weights(CONFIG), x[:, None], config=CONFIG)
            for leaf, expected in zip(("h_n", "c_n"), state, strict=True):
                np.testing.assert_allclose(written[f"{name}.{leaf}"], expected[:, 0], rtol=0, atol=2e-6)
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", f"x{source}", f"y{output}"}


def test_dtypes_and_directions(checkpoint: Path, tmp_path: Path) -> None:
    """Another byte order needs no ``--cast``; bfloat16 goes in and out; both directions run over blocks."""
    x, bfloat16 = sequences()["s0"], np.dtype(ml_dtypes.bfloat16)
    both = LSTMConfig(5, 6, bidirectional=True)
    save(tmp_path / "both.safetensors", weights(both), both)
    cases: tuple[Any, ...] = (
        (checkpoint, {"a": x.astype(">f4")}, ".npz", (), CONFIG, 1e-6),
        (checkpoint, {"a": x.astype(bfloat16)}, ".safetensors", ("--cast",), CONFIG, 0.02),
        (checkpoint, {"a": x}, ".npz", ("--dtype", "bfloat16", "--cast"), CONFIG, 0.05),
        (tmp_path / "both.safetensors", {"a": x, "b": x[::-1]}, ".npy", (), both, 1e-6),
    )
    for model, arrays, suffix, options, config, tolerance in cases:
        write_sequences(tmp_path / f"x{suffix}", arrays)
        output = tmp_path / ("y.npy" if suffix == ".npy" else "y.safetensors")
        assert run(model, tmp_path / f"x{suffix}", output, *options) == 0
        written = list(read(output).values())
        assert (written[0].dtype == bfloat16) == ("--dtype" in options)
        for array, outputs in zip(arrays.values(), written, strict=True):
            expected, _ = reference(weights(config), array.astype(np.float32)[:, None], config=config)
            np.testing.assert_allclose(outputs.astype(np.float32), expected[:, 0], rtol=0, atol=tolerance)


def test_one_long_sequence_in_bounded_memory(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs have 10 MB; the command needs less than 2."""
    monkeypatch.setattr(files, "CHUNK_STEPS", 4096)
    x = write_long_sequence(tmp_path / "x.npy")
    assert run(checkpoint, tmp_path / "x.npy", tmp_path / "y.npy") == 0
    assert_outputs("long", np.load(tmp_path / "y.npy"), x)
    np.save(tmp_path / "x.npy", np.tile(x, (2600, 1)))
    tracemalloc.start()
    assert run(checkpoint, tmp_path / "x.npy", tmp_path / "y.npy") == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    outputs = np.load(tmp_path / "y.npy", mmap_mode="r")
    assert outputs.nbytes > 9.9e6
    assert peak < 2e6
    start = np.tile(x, (40, 1))[:, None]
    expected, _ = lstm(weights(CONFIG), start, config=CONFIG, backend="scan")
    np.testing.assert_allclose(outputs[: len(start)], expected[:, 0], rtol=0, atol=1e-6)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint and three files in ``in/``."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name, scale in (("a", 1), ("b", 2), ("c", 3)):
        write_sequences(Path(f"in/{name}.npz"), {"s": scale * sequences()["s0"]})
    Path("in/notes.txt").touch()
    return tmp_path


def assert_whole(output: str) -> None:
    """Every input has its results, and no other file exists."""
    assert sorted(path.name for path in Path(output).iterdir()) == ["a.npz", "b.npz", "c.npz"]
    for name, scale in (("a", 1), ("b", 2), ("c", 3)):
        assert_outputs(name, np.load(f"{output}/{name}.npz")["s"], scale * sequences()["s0"])


def run_folder(*options: str, source: tuple[str, ...] = ("in",)) -> tuple[int, int]:
    """Run to ``out/`` and return the numbers of files that were done and that were computed."""
    done = jaxlstm_command("run", "m.safetensors", "--input", *source, "-o", "out/", "--json", *options)
    assert done.status == 0, done.err
    report = json.loads(done.out)
    return report["files_done_before"], report["sequences_run_now"]


@pytest.mark.parametrize(
    "source",
    [
        ("in",),
        ("in/*.npz",),
        ("in/a.npz", "in/b.npz", "in/c.npz"),
        ("in/a.npz", "--input", "in/[bc].npz", "in/a.npz"),
    ],
)
def test_several_inputs(source: tuple[str, ...], folder: Path) -> None:
    assert run_folder(source=source) == (0, 3)
    assert_whole("out")
    before = {path: path.stat().st_ino for path in Path("out").iterdir()}
    assert run_folder(source=source) == (3, 0)
    assert before == {path: path.stat().st_ino for path in Path("out").iterdir()}


def test_done_means_same_files_and_options(folder: Path) -> None:
    assert run_folder() == (0, 3)
    write_sequences(Path("in/b.npz"), {"s": sequences()["s1"]})
    assert run_folder() == (2, 1)
    assert_outputs("b", np.load("out/b.npz")["s"], sequences()["s1"])
    assert run_folder("--cast") == (0, 3)
    save("m.safetensors", weights(CONFIG, seed=1), CONFIG)
    assert run_folder("--cast") == (0, 3)
    assert run_folder("--cast") == (3, 0)
    assert run_folder("--cast", "--overwrite") == (0, 3)


def test_two_runs_at_a_time_keep_each_others_files(tmp_path: Path) -> None:
    """The last one wins. A file that a killed process left, which has no lock, is removed."""
    output, left = tmp_path / "y.npz", tmp_path / f".y.npz.{16 * '0'}.tmp"
    left.touch()
    with written_whole(output) as first:
        first.write_bytes(b"first")
        with written_whole(output) as second:
            second.write_bytes(b"second")
        assert output.read_bytes() == b"second"
    assert output.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [output]


# Kills itself before or after the K-th rename, which makes an output valid.
KILLED = """
import os, signal, sys
from jaxlstm import cli
left, replace = [int(sys.argv[1])], os.replace
def counted(*arguments):
    left[0] -= 1
    if left[0] == 0 and sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("rename", "when", "whole"), [(1, "before", 0), (2, "before", 1), (2, "after", 2)])
def test_a_killed_run_goes_on(rename: int, when: str, whole: int, folder: Path) -> None:
    arguments = ["run", "m.safetensors", "--input", "in", "-o", "out/"]
    command = [sys.executable, "-c", KILLED, str(rename), when, *arguments]
    done = subprocess.run(command, env=python_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(Path("out").glob("*.npz"))) == whole
    assert run_folder() == (whole, 3 - whole)
    assert_whole("out")
