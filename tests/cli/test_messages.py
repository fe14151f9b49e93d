"""The messages of the command line name its options, and say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import jaxlstm
from jaxlstm.inference import load_exported
from testing.command import jaxlstm_command

STATE = {**torch.nn.LSTM(3, 4).state_dict(prefix="a."), **torch.nn.LSTM(3, 4).state_dict(prefix="b.")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(STATE, "m.pt")
    torch.save(torch.nn.RNN(3, 4).state_dict(), "rnn.pt")
    torch.save(torch.nn.LSTMCell(3, 4).state_dict(), "cell.pt")
    Path("mine.safetensors").write_text("mine")
    Path("lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    Path("page.pt").write_text("\n<!DOCTYPE html>")
    Path("x.stablehlo").write_bytes(bytes.fromhex("3c0000003800640000000000"))
    return tmp_path


def test_without_arguments() -> None:
    done = jaxlstm_command()
    assert (done.status, done.out) == (2, "")
    for command in ("inspect", "convert", "check", "run", "export"):
        assert f"\n    {command} " in done.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convert m.pt -o mine.safetensors --prefix a", "pass --overwrite to replace it"),
        ("convert m.pt -o x.msgpack", "'.msgpack'; the formats are safetensors (.safetensors), torch (.pt, "),
        ("convert m.pt -o x.bin", "npz (.npz): choose such a suffix, or pass --format NAME"),
        ("convert m.pt -o x.pt", "--prefix must select one of the LSTMs 'a.', 'b.', got None"),
        ("convert m.pt -o x.pt --prefix c", "--prefix 'c' matches no LSTM; the LSTMs are 'a.', 'b.'"),
        ("check m.pt --prefix a --seed -1", "--seed must be 0 or more, got -1"),
        ("convert m.pt -o ", "argument -o/--output: must be a path, got an empty string"),
        ("convert  -o x.pt", "argument FILE: must be a path, got an empty string"),
        ("inspect ", "argument FILE: must be a path, got an empty string"),
        ("check m.pt --report ", "argument --report: must be a path, got an empty string"),
        ("run m.pt --input  -o y.npz", "argument --input: must be a path, got an empty string"),
        ("inspect none.pt", "no such file: none.pt"),
        ("inspect .", "."),
        ("convert m.pt", "the following arguments are required: -o/--output"),
        ("check m.pt --backend abacus", "invalid choice"),
        (
            "convert cell.pt -o x.safetensors --batch-first --dropout 0.1",
            "--batch-first and --dropout cannot be used with an LSTMCell",
        ),
        ("convert none.pt -o x.pt", "no such file: none.pt"),
        ("check none.pt", "no such file: none.pt"),
        ("run m.pt --prefix a --input none.npy -o y.npy", "no such file: none.npy"),
        ("run m.pt --prefix a --input none.npz -o y.npz", "no such file: none.npz"),
        ("convert none.pt -o no/x.pt", "no/x.pt: the folder no does not exist; create it or choose another"),
        ("export m.pt --prefix a -o no/x.stablehlo", "no/x.stablehlo: the folder no does not exist"),
        ("run m.pt --prefix a --input none.npz -o no/y.npz", "no/y.npz: the folder no does not exist"),
        ("check none.pt --report no/x.html", "no/x.html: the folder no does not exist"),
        ("convert rnn.pt -o x.pt", "the root is an RNN"),
        ("inspect m.pt --verbose", "unrecognized arguments: --verbose (see jaxlstm inspect --help)"),
        (
            "convert m.pt -o x.pt --batch_first",
            "--batch_first; did you mean --batch-first? (see jaxlstm conv",
        ),
        ("export m.pt -o x.onnx --prefix a", "must not end in .onnx, as the artifact is StableHLO"),
        ("export m.pt --prefix a -o x.stablehlo --platforms abacus", "--platforms must be some of"),
        ("export m.pt --prefix a -o x.safetensors", "must not end in .safetensors"),
        ("inspect lfs.pt", "it looks like a Git LFS pointer: run git lfs pull [unknown-format]"),
        ("inspect page.pt", "it looks like a web page instead of the download"),
        ("inspect x.stablehlo", "; jaxlstm.inference.load_exported reads artifacts of jaxlstm export"),
    ],
)
def test_message(folder: Path, line: str, message: str) -> None:
    done = jaxlstm_command(*line.split(" "))
    assert (done.status, done.out) == (2, "")
    command = line.split(" ")[0]
    assert done.err.startswith(f"jaxlstm {command}: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert "=True" not in done.err
    assert "Errno" not in done.err
    assert (folder / "mine.safetensors").read_text() == "mine"


@pytest.mark.filterwarnings("default:dropout")
def test_a_warning_of_python_is_one_line_without_a_source_line(folder: Path) -> None:
    arguments = ("--prefix", "a", "--batch-first", "--dropout", "0.5")
    done = jaxlstm_command("convert", "m.pt", "-o", "x.safetensors", *arguments)
    assert done.status == 0
    assert done.err.startswith("jaxlstm convert: warning: dropout=0.5 has no effect")
    assert done.err.count("\n") == 1


def test_inspect_an_rnn(folder: Path) -> None:
    text = jaxlstm_command("inspect", "rnn.pt").out
    assert "No LSTM found. --all lists every layer." in text
    assert "not an LSTM: (root) is an RNN" in text


def test_the_library_names_its_arguments(folder: Path) -> None:
    params, config = jaxlstm.from_torch(STATE, prefix="a")
    with pytest.raises(FileExistsError, match=r"or pass overwrite=True to replace it$"):
        jaxlstm.save("mine.safetensors", params, config)
    with pytest.raises(FileNotFoundError, match="the folder no does not exist; create it"):
        jaxlstm.save("no/x.safetensors", params, config)
    assert not Path("no").exists()
    calls: list[Any] = [jaxlstm.load, jaxlstm.read_checkpoint, jaxlstm.find_lstms, load_exported]
    for call in calls:
        with pytest.raises(FileNotFoundError, match=r"^no such file: none\.pt$"):
            call("none.pt")
