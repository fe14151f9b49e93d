"""``jaxlstm run``: every format of input and output."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlstm import LSTMConfig, read_checkpoint, save
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.cli.run import job, results
from testing.inference import reference, weights
from testing.run_command import CONFIG, assert_outputs, run, sequences, write_long_sequence

BOTH = LSTMConfig(5, 6, bidirectional=True)


def test_npz_in_parts(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 60)  # several parts
    inputs = sequences()
    np.savez(tmp_path / "x.npz", **inputs)  # type: ignore[arg-type]
    assert run(checkpoint, tmp_path / "x.npz", tmp_path / "y.npz", "--states") == 0
    written = np.load(tmp_path / "y.npz")
    assert sorted(written.files) == sorted(n + end for n in inputs for end in ("", ".h_n", ".c_n"))
    for name, x in inputs.items():
        assert_outputs(name, written[name], x)
        _, (h_n, c_n) = reference(weights(CONFIG), x[:, None], config=CONFIG)
        np.testing.assert_allclose(written[name + ".h_n"], h_n[:, 0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(written[name + ".c_n"], c_n[:, 0], rtol=0, atol=2e-6)
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "x.npz", "y.npz"}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_memory_of_assemble(suffix: str, tmp_path: Path) -> None:
    """16 MB of results are assembled from parts of 1 MB in less than 6 MB."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet", reason="pyarrow writes parquet files")
    output = tmp_path / f"y{suffix}"
    part = {"outputs": np.zeros((1000, 256), np.float32), "h_n": np.zeros((1, 256), np.float32)}
    with job.Job(output, {}).opened() as current:
        for index in range(16):
            named = {f"{index}.{leaf}": array for leaf, array in part.items()}
            current.add(index, index + 1, named, [f"s{index}"])
        tracemalloc.start()
        results.assemble(current)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Arrow compresses the zeros.
    assert output.stat().st_size > (1e3 if suffix == ".parquet" else 16e6)
    assert peak < 6e6


def test_safetensors_and_parquet(checkpoint: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads parquet files")
    import pyarrow

    inputs = sequences()
    table = pyarrow.table({"inputs": [x.ravel() for x in inputs.values()], "id": list(inputs)})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=4)
    assert run(checkpoint, tmp_path / "x.parquet", tmp_path / "y.safetensors") == 0
    written = read_checkpoint(tmp_path / "y.safetensors")
    for index, x in enumerate(inputs.values()):
        assert_outputs(str(index), np.asarray(written[str(index)]), x)
    assert run(checkpoint, tmp_path / "y.safetensors", tmp_path / "z.npz") == 2  # 8 features, not 5
    assert run(checkpoint, tmp_path / "x.parquet", tmp_path / "y.parquet", "--states") == 0
    rows = parquet.read_table(tmp_path / "y.parquet").to_pylist()
    for row, x in zip(rows, inputs.values(), strict=True):
        assert row["length"] == len(x)
        assert_outputs(row["name"], np.reshape(row["outputs"], (len(x), 8)), x)
        assert np.shape(row["c_n"]) == (16,)


def test_npy(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long sequence in parts, and a block of sequences."""
    monkeypatch.setattr(job, "PART_STEPS", 50)
    x = write_long_sequence(tmp_path / "x.npy")
    assert run(checkpoint, tmp_path / "x.npy", tmp_path / "y.npy") == 0
    assert_outputs("long", np.load(tmp_path / "y.npy"), x)
    block = x.reshape(4, 30, 5)
    np.save(tmp_path / "block.npy", block)
    save(tmp_path / "both.safetensors", weights(BOTH), BOTH)
    assert run(tmp_path / "both.safetensors", tmp_path / "block.npy", tmp_path / "z.npy") == 0
    written = np.load(tmp_path / "z.npy")
    assert written.shape == (4, 30, 12)
    for k in range(4):
        assert_outputs(str(k), written[k], block[k], BOTH)


def test_casts(checkpoint: Path, tmp_path: Path) -> None:
    """Another byte order needs no ``--cast``, and bfloat16 goes in and out."""
    x = sequences()["s0"]
    source, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(source, a=x.astype(">f4"))
    assert run(checkpoint, source, output) == 0
    assert_outputs("a", np.load(output)["a"], x)
    half = np.asarray(x, jax.numpy.bfloat16)
    (tmp_path / "half.safetensors").write_bytes(b"".join(safetensors_bytes({"a": half}, {})))
    assert run(checkpoint, tmp_path / "half.safetensors", output, "--cast") == 0
    assert_outputs("a", np.load(output)["a"], half.astype(np.float32))
    options = ("--dtype", "bfloat16", "--cast")
    assert run(checkpoint, source, tmp_path / "y.safetensors", *options) == 0
    assert read_checkpoint(tmp_path / "y.safetensors")["a"].dtype == jax.numpy.bfloat16
