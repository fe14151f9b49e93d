"""``jaxlstm run``: each kind of bad input ends with status 2 and one line, and writes nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.cli.run import job
from testing.run_command import assert_outputs, run, sequences

Refuse = Callable[..., None]


@pytest.fixture
def refuse(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """A function that asserts that a run fails with a message of one line."""

    def refuse(source: str, output: str, options: tuple[str, ...], message: str) -> None:
        assert run(checkpoint, tmp_path / source, tmp_path / output, *options) == 2
        error = capsys.readouterr().err
        assert message in error, error
        assert len(error.splitlines()) == 1

    return refuse


def test_inputs_and_options(refuse: Refuse, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", **sequences(np.float64))  # type: ignore[arg-type]
    np.savez(tmp_path / "flat.npz", x=np.zeros(5, np.float32))
    np.savez(tmp_path / "no_steps.npz", x=np.zeros((0, 5), np.float32))
    np.savez(tmp_path / "empty.npz")
    np.savez(tmp_path / "x.npz", **sequences())  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "objects.npz", "w") as archive:
        archive.writestr("x.npy", b"\x80\x04.")
    for source, output, options, message in (
        ("missing.npz", "y.npz", (), "no such file"),
        ("wide.npz", "y.npz", (), "s0 is float64 and the LSTM is float32; --cast"),
        ("flat.npz", "y.npz", (), "x must have shape (time, 5) with at least one step, got (5,)"),
        ("no_steps.npz", "y.npz", (), "with at least one step, got (0, 5)"),
        ("empty.npz", "y.npz", (), "has no sequences"),
        ("objects.npz", "y.npz", (), "x is not an array of numbers"),
        ("x.npz", "y.npy", (), "the suffix must be .npz or .safetensors or .parquet"),
        ("x.npz", "nowhere/y.npz", (), "nowhere does not exist; create it or choose another path"),
        ("x.npz", "y.npz", ("--batch-size", "0"), "--batch-size must be greater than zero, got 0"),
        ("x.npz", "y.npz", ("--dtype", "int8"), "dtype must be float16"),
        ("x.npz", "y.npz", ("--prefix", "nothing"), "prefix"),
    ):
        refuse(source, output, options, message)
        assert not (tmp_path / output).exists()


def test_parts_of_another_run(refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PART_STEPS", 60)
    mixed = sequences() | {"s8": np.zeros((4, 5))}
    np.savez(tmp_path / "x.npz", **mixed)  # type: ignore[arg-type]
    refuse("x.npz", "y.npz", (), "s8 is float64")
    refuse("x.npz", "y.npz", ("--states",), "has parts of a run with another")


def test_malformed_files(refuse: Refuse, tmp_path: Path) -> None:
    """Errors of NumPy, zipfile and zlib become one line that names the file."""
    np.savez(tmp_path / "bits.npz", a=np.zeros((9, 5), np.float32))
    data = bytearray((tmp_path / "bits.npz").read_bytes())
    data[200] ^= 255
    (tmp_path / "bits.npz").write_bytes(data)
    np.savez(tmp_path / "objects.npz", a=np.array([[None] * 5]))
    np.save(tmp_path / "objects.npy", np.array([[None] * 5]))
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        # NumPy names both "a", and would return the first one twice.
        for member in ("a.npy", "a"):
            archive.writestr(member, (tmp_path / "objects.npy").read_bytes())
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("not an array")
    for source, message in (
        ("bits.npz", "bits.npz: a cannot be read: Bad CRC-32"),
        ("objects.npz", "objects.npz: a cannot be read: Object arrays"),
        ("twice.npz", "twice.npz has several arrays named 'a'"),
        ("objects.npy", "objects.npy is not a .npy file of numbers"),
        ("empty.npy", "empty.npy is not a .npy file of numbers"),
        ("text.npy", "text.npy is not a .npy file of numbers: the magic string is not correct"),
    ):
        output = f"y{source[-4:]}"
        refuse(source, output, (), message)
        assert not (tmp_path / output).exists()


def test_outputs(refuse: Refuse, tmp_path: Path) -> None:
    """An output that cannot hold the results, or would replace an input, is refused before the run."""
    x = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    np.save(tmp_path / "long.npy", x)
    np.save(tmp_path / "block.npy", x.reshape(3, 4, 5))
    np.savez(tmp_path / "x.npz", **{"a": x, "a.h_n": x})  # type: ignore[arg-type]
    (tmp_path / "x.csv").touch()
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link.npz").symlink_to("x.npz")
    half = ("--dtype", "bfloat16", "--cast")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for source, output, options, message in (
        ("long.npy", "y.npz", (), "for one long sequence in float32 the suffix must be .npy"),
        ("long.npy", "y.parquet", (), "for one long sequence in float32 the suffix must be .npy"),
        ("long.npy", "y.npy", ("--states",), "no output format stores one long sequence"),
        ("long.npy", "y.npy", half, "no output format stores one long sequence in bfloat16"),
        ("block.npy", "y.npy", ("--states",), "with --states the suffix must be .npz or"),
        ("block.npy", "y.npy", half, "for sequences in bfloat16 the suffix must be .safetensors"),
        ("block.npy", "y.parquet", half, "the suffix must be .safetensors"),
        ("x.csv", "y.npz", (), "x.csv: the suffix must be one of .npz, .npy"),
        ("x.npz", "folder.npz", (), "folder.npz is a folder; choose another path"),
        ("block.npy", "y", (), "the suffix must be"),
        ("x.npz", "x.npz", (), "x.npz would replace the input"),
        ("x.npz", "link.npz", (), "link.npz would replace the input"),
        ("x.npz", "m.safetensors", (), "m.safetensors would replace the input"),
        ("x.npz", "y.npz", ("--states",), "a.h_n would be the name of a result of 'a' and of 'a.h_n'"),
    ):
        refuse(source, output, options, message)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_dtypes_of_inputs(refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = sequences()["s0"]
    for array, options, message in (
        ((9 * x).astype(int), (), "sequence a is int64 and the LSTM is float32; --cast rounds the input\n"),
        (x.astype(np.float16), (), "rounds the input, --dtype float16 runs the LSTM in float16"),
        (x + 1j, ("--cast",), "sequence a must hold real numbers, got complex"),
        (x > 0, ("--cast",), "sequence a must hold real numbers, got bool"),
    ):
        np.savez(tmp_path / "x.npz", a=array)
        refuse("x.npz", "y.npz", options, message)
    np.savez(tmp_path / "x.npz", a=x)
    monkeypatch.setattr("jaxlstm.cli.run.MAX_LENGTH", 16)
    refuse("x.npz", "y.npz", (), "sequence a has 30 steps, more than the 16 of one among several")


def test_columns_of_parquet(refuse: Refuse, checkpoint: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads parquet files")
    import pyarrow

    x = sequences()["s0"]
    source, output = tmp_path / "x.parquet", tmp_path / "y.npz"
    steps = pyarrow.list_(pyarrow.list_(pyarrow.float32()))
    for column, message in (
        (pyarrow.array([1.0]), "column 'inputs' of"),
        (pyarrow.array(["a"]), "must hold lists of numbers, got string"),
        (pyarrow.array([None], steps), "row 0 of column 'inputs' contains a null"),
        (pyarrow.array([[[1, 2, 3, 4, None]]], steps), "row 0 of column 'inputs' contains a null"),
        (pyarrow.array([[[1, 2, 3], [4, 5]]], steps), "must have 5 numbers in each step, got [2, 3]"),
        (pyarrow.array([], steps), "x.parquet has no sequences"),
    ):
        parquet.write_table(pyarrow.table({"inputs": column}), source)
        refuse("x.parquet", "y.npz", (), message)
    refuse("x.parquet", "y.npz", ("--column", "other"), "has no column 'other'; choose one of ['inputs']")
    source.write_bytes(b"")
    refuse("x.parquet", "y.npz", (), "x.parquet is not a parquet file")
    parquet.write_table(pyarrow.table({"inputs": pyarrow.array([x.tolist()], steps)}), source)
    assert run(checkpoint, source, output) == 0
    assert_outputs("0", np.load(output)["0"], x)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet", ".npy"])
def test_another_file_needs_overwrite(suffix: str, refuse: Refuse, checkpoint: Path, tmp_path: Path) -> None:
    """Without ``--overwrite``, a run replaces only the output of a run."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet", reason="pyarrow writes parquet files")
    source, output = tmp_path / "x.npy", tmp_path / f"y{suffix}"
    block = np.zeros((2, 3, 5), np.float32)
    np.save(source, block)
    if suffix == ".npy":
        np.save(output, block)
    elif suffix == ".npz":
        np.savez(output, a=block)
    elif suffix == ".safetensors":
        output.write_bytes(b"".join(safetensors_bytes({"a": block}, {})))
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), output)
    before = output.read_bytes()
    refuse("x.npy", output.name, (), "exists and was not written by jaxlstm")
    assert output.read_bytes() == before
    assert run(checkpoint, source, output, "--overwrite") == 0
    assert run(checkpoint, source, output) == 0
    assert output.read_bytes() != before


@pytest.mark.parametrize("name", ["notes.txt", "part-of-me", "part-000000000000000.safetensors.bak"])
def test_files_of_the_user_in_the_folder_of_parts(name: str, refuse: Refuse, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **sequences())  # type: ignore[arg-type]
    (tmp_path / "y.npz.parts").mkdir()
    (tmp_path / "y.npz.parts" / name).write_text("mine")
    refuse("x.npz", "y.npz", (), f"holds {name}")
    assert (tmp_path / "y.npz.parts" / name).read_text() == "mine"
    assert not (tmp_path / "y.npz").exists()


def test_input_in_the_folder_of_parts(refuse: Refuse, tmp_path: Path) -> None:
    source = tmp_path / "y.safetensors.parts" / "part-000000000000000.safetensors"
    source.parent.mkdir()
    source.write_bytes(b"".join(safetensors_bytes(sequences(), {})))
    refuse(str(source), "y.safetensors", (), "would replace the input")
    assert source.exists()
