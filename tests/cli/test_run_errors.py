"""``jaxlstm run``: each kind of bad input ends with status 2 and one line, and writes nothing."""

import resource
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm.cli.run import cluster
from testing.command import SUFFIXES, jaxlstm_command, sequences, write_long_sequence, write_sequences

pyarrow = pytest.importorskip("pyarrow", reason="some of the files are Parquet files")
parquet = pytest.importorskip("pyarrow.parquet")
STEPS = pyarrow.list_(pyarrow.list_(pyarrow.float32()))


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint, and good and bad files of sequences."""
    monkeypatch.chdir(tmp_path)
    x = write_long_sequence(Path("long.npy"))
    named: dict[str, dict[str, Any]] = {
        "x": sequences(),
        "wide": sequences(np.float64),
        "flat": {"x": np.zeros(5, np.float32)},
        "empty": {},
        "none": {"a": np.array([[None] * 5])},
        "names": {"a": x, "a.h_n": x},
        "late": {**{f"a{k}": x[:1] for k in range(8)}, "bad": x[:, :2]},
    }
    for name, arrays in named.items():
        np.savez(f"{name}.npz", **arrays)
    np.save("block.npy", x.reshape(4, 30, 5))
    bits = bytearray(Path("x.npz").read_bytes())
    bits[200] ^= 255
    Path("bits.npz").write_bytes(bits)
    for name in ("empty.npy", "empty.parquet", "x.csv"):
        Path(name).touch()
    columns: dict[str, Any] = {
        "null": pyarrow.array([None], STEPS),
        "ragged": pyarrow.array([[[1, 2, 3], [4, 5]]], STEPS),
        "good": pyarrow.array([x.tolist()], STEPS),
    }
    parquet.write_table(pyarrow.table(columns), "x.parquet")
    parquet.write_table(pyarrow.table({**columns, "outputs": [1]}), "taken.parquet")
    parquet.write_table(pyarrow.table({"inputs": pyarrow.array([], STEPS)}), "rows.parquet")
    for name in ("other", "in"):
        Path(name).mkdir()
    np.savez("other/x.npz", a=x)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CASES = """
wide.npz -o y.npz: wide.npz: sequence s0 is float64 and the model takes float32; pass --cast to convert it
flat.npz -o y.npz: flat.npz: sequence x has shape (5,), expected (time, 5), not empty
late.npz -o y.npz --batch-size 1: late.npz: sequence bad has shape (120, 2), expected (time, 5), not empty
empty.npz -o y.npz: empty.npz has no sequences
none.npz -o y.npz: none.npz: a cannot be read: Object arrays
bits.npz -o y.npz: bits.npz: s0 cannot be read: Bad CRC-32
empty.npy -o y.npy: empty.npy is not a .npy file of numbers
empty.parquet -o y.npz: empty.parquet is not a parquet file
rows.parquet -o y.npz: rows.parquet has no sequences
x.csv -o y.npz: x.csv: the suffix must be one of .npz, .safetensors
gone.npz -o y.npz: no such file: gone.npz
in -o y/: --input in: there is no such file
x.parquet -o y.npz: x.parquet: there is no column 'inputs' for an input of the model; pass --column
x.parquet -o y.npz --column null: x.parquet: row 0 of column 'null' is null
x.parquet -o y.npz --column ragged: 'ragged' has lists of different lengths, [2, 3]
taken.parquet -o y.parquet --column good: has a column 'outputs' already
x.npz -o y.npz --dtype int8: dtype must be float16
x.npz -o y.npy: -o y.npy: sequences in float32 can be written to .npz or .parquet or .safetensors
long.npy -o y.npz: one long sequence in float32 can be written to .npy
block.npy -o y.npy --states: can be written to .npz or .parquet or .safetensors
x.npz -o y.npz --cast --dtype bfloat16: in bfloat16 can be written to .parquet or .safetensors
x.npz -o y.npz --error-column e: can be written to .parquet
names.npz -o y.npz --states: a.h_n would be the name of two results
x.npz long.npy -o y.npz: -o y.npz must be a folder for 2 input files; end it with /
x.npz other -o y/: 2 inputs are named x.npz, and their results would have one name in y/
x.npz -o x.npz: x.npz would replace the input
x.npz long.npy -o other: exists and was not written by jaxlstm
other/x.npz -o other --overwrite: would replace the input
x.npz -o m.safetensors --overwrite: m.safetensors would replace the input
x.npz -o /sys/y.npz: /sys/y.npz:
x.npz -o y.npz --engine ray --address 127.0.0.1:1: 127.0.0.1:1: no cluster answers: Connection refused
x.npz -o y.npz --workers 2: --address and --workers need --engine ray
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_message(case: str, folder: Path) -> None:
    line, _, message = case.partition(": ")
    before = contents(folder)
    done = jaxlstm_command("run", "m.safetensors", "--input", *line.split())
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n"])
def test_a_server_that_is_not_a_cluster(
    answer: bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program has the port: it is silent, ends the connection, or speaks another protocol."""
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.5)

    def respond(server: socket.socket, answer: bytes) -> None:
        with server.accept()[0] as connection:
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        if answer is not None:
            threading.Thread(target=respond, args=(server, answer)).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        options = ("-o", "y.npz", "--engine", "ray", "--address", address)
        done = jaxlstm_command("run", "m.safetensors", "--input", "x.npz", *options, status=2)
    assert done.err.startswith(f"jaxlstm run: --address {address}: no cluster answers: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_space(suffix: str, folder: Path) -> None:
    """The error names the output, which is not there."""
    before, limits = contents(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        done = jaxlstm_command("run", "m.safetensors", "--input", "block.npy", "-o", f"y{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 2
    assert f"y{suffix}" in done.err
    assert "too large" in done.err
    assert contents(folder) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_file_needs_overwrite(suffix: str, folder: Path) -> None:
    """Without ``--overwrite``, a run replaces only the output of a run."""
    output = Path(f"y{suffix}")
    write_sequences(output, {"a": np.zeros((2, 5), np.float32)})
    before, arguments = output.read_bytes(), ["run", "m.safetensors", "-o", output, "--input", "block.npy"]
    assert "exists and was not written by jaxlstm" in jaxlstm_command(*arguments).err
    assert output.read_bytes() == before
    assert jaxlstm_command(*arguments, "--overwrite").status == 0
    assert jaxlstm_command(*arguments, "--batch-size", "2", "--cast").status == 0
    assert output.read_bytes() != before
