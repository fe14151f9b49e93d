"""``jaxlstm run``: every kind of file, and what is refused."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlstm import LSTMConfig, read_checkpoint, save
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.cli.run import job, results
from tests.support.inference import reference
from tests.support.run_command import (
    CONFIG,
    assert_right,
    long_sequence,
    params_of,
    run,
    sequences,
    write_checkpoint,
)

BOTH = LSTMConfig(5, 6, bidirectional=True)

Written = Callable[[Path, dict[str, np.ndarray]], None]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


def test_npz_to_npz_in_parts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 60)  # several parts
    given = sequences()
    np.savez(tmp_path / "x.npz", **given)  # type: ignore[arg-type]
    assert run(checkpoint, tmp_path / "x.npz", tmp_path / "y.npz", "--states") == 0
    found = np.load(tmp_path / "y.npz")
    assert sorted(found.files) == sorted(n + e for n in given for e in ("", ".h_n", ".c_n"))
    for name, x in given.items():
        assert_right(name, found[name], x)
        _, (h_n, c_n) = reference(params_of(CONFIG), x[:, None], config=CONFIG)
        np.testing.assert_allclose(found[name + ".h_n"], h_n[:, 0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found[name + ".c_n"], c_n[:, 0], rtol=0, atol=2e-6)
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "x.npz", "y.npz"}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_parts_are_put_together_a_piece_at_a_time(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 MB of results, in parts of 1 MB."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow writes parquet files")
    config = LSTMConfig(1, 256)
    save(tmp_path / "m.safetensors", params_of(config), config)
    arrays = {f"s{k}": np.zeros((500, 1), np.float32) for k in range(32)}
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    monkeypatch.setattr(job, "PART_STEPS", 1000)
    assemble, peaks = results.assemble, []

    def traced(*arguments: Any) -> None:
        tracemalloc.start()
        assemble(*arguments)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    monkeypatch.setattr(results, "assemble", traced)
    output = tmp_path / f"y{suffix}"
    assert run(tmp_path / "m.safetensors", tmp_path / "x.npz", output) == 0
    assert output.stat().st_size > 1e6
    assert peaks[0] < 6e6


def test_safetensors_and_parquet(checkpoint: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads parquet files")
    import pyarrow

    given = sequences()
    table = pyarrow.table({"inputs": [x.ravel() for x in given.values()], "id": list(given)})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=4)
    assert run(checkpoint, tmp_path / "x.parquet", tmp_path / "y.safetensors") == 0
    found = read_checkpoint(tmp_path / "y.safetensors")
    for index, x in enumerate(given.values()):
        assert_right(str(index), np.asarray(found[str(index)]), x)
    assert run(checkpoint, tmp_path / "y.safetensors", tmp_path / "z.npz") == 2  # 8 features, not 5
    assert run(checkpoint, tmp_path / "x.parquet", tmp_path / "y.parquet", "--states") == 0
    rows = parquet.read_table(tmp_path / "y.parquet").to_pylist()
    for row, x in zip(rows, given.values(), strict=True):
        assert row["length"] == len(x)
        assert_right(row["name"], np.reshape(row["outputs"], (len(x), 8)), x)
        assert np.shape(row["c_n"]) == (16,)


def test_one_long_sequence_and_a_block(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 50)
    x = long_sequence(tmp_path / "x.npy")
    assert run(checkpoint, tmp_path / "x.npy", tmp_path / "y.npy") == 0
    assert_right("long", np.load(tmp_path / "y.npy"), x)
    block = x.reshape(4, 30, 5)
    np.save(tmp_path / "block.npy", block)
    save(tmp_path / "both.safetensors", params_of(BOTH), BOTH)
    assert run(tmp_path / "both.safetensors", tmp_path / "block.npy", tmp_path / "z.npy") == 0
    found = np.load(tmp_path / "z.npy")
    assert found.shape == (4, 30, 12)
    for k in range(4):
        assert_right(str(k), found[k], block[k], BOTH)


def test_errors_are_one_line(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    np.savez(tmp_path / "wide.npz", **sequences(np.float64))  # type: ignore[arg-type]
    np.savez(tmp_path / "flat.npz", x=np.zeros(5, np.float32))
    np.savez(tmp_path / "empty.npz")
    np.savez(tmp_path / "x.npz", **sequences())  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "objects.npz", "w") as archive:
        archive.writestr("x.npy", b"\x80\x04.")
    y = tmp_path / "y.npz"
    for source, output, more, message in (
        ("missing.npz", y, (), "no such file"),
        ("m.safetensors", y, (), "must have shape (time, 5)"),
        ("wide.npz", y, (), "s0 is float64 and the LSTM float32; --cast"),
        ("flat.npz", y, (), "x must have shape (time, 5), got (5,)"),
        ("empty.npz", y, (), "holds nothing to run"),
        ("objects.npz", y, (), "x is no array of numbers"),
        ("x.npz", tmp_path / "y.npy", (), "the suffix must be .npz or .safetensors or .parquet"),
        ("x.npz", tmp_path / "nowhere" / "y.npz", (), "its folder does not exist"),
        ("x.npz", y, ("--batch-size", "0"), "--batch-size must be at least 1"),
        ("x.npz", y, ("--dtype", "int8"), "dtype must be float16"),
        ("x.npz", y, ("--prefix", "nothing"), "prefix"),
    ):
        assert run(checkpoint, tmp_path / source, output, *more) == 2
        told = capsys.readouterr()
        assert message in told.err, told.err
        assert len(told.err.splitlines()) == 1
        assert not output.exists()
    # the parts of a run with other options are not mixed in
    monkeypatch.setattr(job, "PART_STEPS", 60)
    mixed = sequences() | {"s8": np.zeros((4, 5))}
    np.savez(tmp_path / "x.npz", **mixed)  # type: ignore[arg-type]
    assert run(checkpoint, tmp_path / "x.npz", y) == 2
    assert "s8 is float64" in capsys.readouterr().err
    assert run(checkpoint, tmp_path / "x.npz", y, "--states") == 2
    assert "holds the parts of a run with another" in capsys.readouterr().err


def test_a_broken_input_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What NumPy, zipfile and zlib raise for it are errors of many kinds, few of which name the file."""
    np.savez(tmp_path / "bits.npz", a=np.zeros((9, 5), np.float32))
    data = bytearray((tmp_path / "bits.npz").read_bytes())
    data[200] ^= 255
    (tmp_path / "bits.npz").write_bytes(data)
    np.savez(tmp_path / "objects.npz", a=np.array([[None] * 5]))
    np.save(tmp_path / "objects.npy", np.array([[None] * 5]))
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        for member in ("a.npy", "a"):  # NumPy calls both "a", and would give the first one twice
            archive.writestr(member, (tmp_path / "objects.npy").read_bytes())
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("no array at all")
    for source, message in (
        ("bits.npz", "bits.npz: a cannot be read: Bad CRC-32"),
        ("objects.npz", "objects.npz: a cannot be read: Object arrays"),
        ("twice.npz", "twice.npz holds several arrays of the name 'a'"),
        ("objects.npy", "objects.npy is no .npy file of numbers"),
        ("empty.npy", "empty.npy is no .npy file of numbers"),
        ("text.npy", "text.npy is no .npy file of numbers: the magic string is not correct"),
    ):
        output = tmp_path / f"y{source[-4:]}"
        assert run(checkpoint, tmp_path / source, output) == 2
        told = capsys.readouterr().err
        assert message in told, told
        assert len(told.splitlines()) == 1
        assert not output.exists()


def test_an_output_that_cannot_hold_the_results_is_told_first(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    np.save(tmp_path / "long.npy", x)
    np.save(tmp_path / "block.npy", x.reshape(3, 4, 5))
    np.savez(tmp_path / "x.npz", **{"a": x, "a.h_n": x})  # type: ignore[arg-type]
    (tmp_path / "x.csv").touch()
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link.npz").symlink_to("x.npz")
    half = ("--dtype", "bfloat16", "--cast")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for source, output, more, message in (
        ("long.npy", "y.npz", (), "for one long sequence in float32 the suffix must be .npy"),
        ("long.npy", "y.parquet", (), "for one long sequence in float32 the suffix must be .npy"),
        ("long.npy", "y.npy", ("--states",), "no file holds the outputs of one long sequence"),
        ("long.npy", "y.npy", half, "no file holds the outputs of one long sequence in bfloat16"),
        ("block.npy", "y.npy", ("--states",), "with --states the suffix must be .npz or"),
        ("block.npy", "y.npy", half, "for sequences in bfloat16 the suffix must be .safetensors"),
        ("block.npy", "y.parquet", half, "the suffix must be .safetensors"),
        ("x.csv", "y.npz", (), "x.csv: the suffix must be one of .npz, .npy"),
        ("x.npz", "folder.npz", (), "folder.npz: is a folder, wanted a file"),
        ("x.npz", "x.npz", (), "x.npz would replace"),
        ("x.npz", "link.npz", (), "x.npz, which is read; take another name"),
        ("x.npz", "m.safetensors", (), "m.safetensors, which is read; take another name"),
        ("x.npz", "y.npz", ("--states",), "a.h_n is the name both of a sequence and of a state"),
        ("x.npz", "y.npz", ("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
    ):
        assert run(checkpoint, tmp_path / source, tmp_path / output, *more) == 2
        told = capsys.readouterr().err
        assert message in told, told
        assert len(told.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert run(checkpoint, tmp_path / "block.npy", tmp_path / "y.safetensors", *half) == 0


def test_inputs_of_other_dtypes(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = sequences()["s0"]
    source, output = tmp_path / "x.npz", tmp_path / "y.npz"
    for given, more, message in (
        ((9 * x).astype(int), (), "sequence a is int64 and the LSTM float32; --cast rounds inputs"),
        (x.astype(np.float16), (), "rounds inputs to it, --dtype float16 runs the LSTM in that"),
        (x + 1j, ("--cast",), "sequence a must hold real numbers, got complex"),
        (x > 0, ("--cast",), "sequence a must hold real numbers, got bool"),
    ):
        np.savez(source, a=given)
        assert run(checkpoint, source, output, *more) == 2
        told = capsys.readouterr().err
        assert message in told, told
        assert "--dtype int" not in told
        assert len(told.splitlines()) == 1
    np.savez(source, a=x.astype(">f4"))  # the same numbers
    assert run(checkpoint, source, output) == 0
    assert_right("a", np.load(output)["a"], x)
    half = np.asarray(x, jax.numpy.bfloat16)
    (tmp_path / "half.safetensors").write_bytes(b"".join(safetensors_bytes({"a": half}, {})))
    assert run(checkpoint, tmp_path / "half.safetensors", output, "--cast") == 0
    assert_right("a", np.load(output)["a"], half.astype(np.float32))
    monkeypatch.setattr("jaxlstm.cli.run.MAX_LENGTH", 16)
    assert run(checkpoint, source, output) == 2
    assert "sequence a has 30 steps, above the 16 of one among many" in capsys.readouterr().err


def test_columns_of_parquet(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads parquet files")
    import pyarrow

    x = sequences()["s0"]
    source, output = tmp_path / "x.parquet", tmp_path / "y.npz"
    steps = pyarrow.list_(pyarrow.list_(pyarrow.float32()))
    for column, message in (
        (pyarrow.array([1.0]), "column 'inputs' of"),
        (pyarrow.array(["a"]), "must hold lists of numbers, got string"),
        (pyarrow.array([None], steps), "row 0 of column 'inputs' holds a null"),
        (pyarrow.array([[[1, 2, 3, 4, None]]], steps), "row 0 of column 'inputs' holds a null"),
        (pyarrow.array([[[1, 2, 3], [4, 5]]], steps), "holds steps of [2, 3] numbers, wanted 5"),
        (pyarrow.array([], steps), "x.parquet holds nothing to run"),
    ):
        parquet.write_table(pyarrow.table({"inputs": column}), source)
        assert run(checkpoint, source, output) == 2
        told = capsys.readouterr().err
        assert message in told, told
        assert len(told.splitlines()) == 1
    source.write_bytes(b"")
    assert run(checkpoint, source, output) == 2
    assert "x.parquet is no parquet file" in capsys.readouterr().err
    parquet.write_table(pyarrow.table({"inputs": pyarrow.array([x.tolist()], steps)}), source)
    assert run(checkpoint, source, output) == 0
    assert_right("0", np.load(output)["0"], x)
