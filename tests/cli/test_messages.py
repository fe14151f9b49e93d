"""The messages name options and say what to do; a command replaces neither its input nor foreign files."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from jaxlstm._shared.sections import is_html_page
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
        ("convert m.pt -o x.pt", "--prefix must select one of the LSTMs 'a.', 'b.', got None"),
        ("convert m.pt -o x.pt --prefix c", "--prefix 'c' matches no LSTM; the LSTMs are 'a.', 'b.'"),
        ("check m.pt --prefix a --seed -1", "--seed must be 0 or more, got -1"),
        ("convert m.pt -o ", "argument -o/--output: must be a path, got an empty string"),
        ("convert  -o x.pt", "argument FILE: must be a path, got an empty string"),
        ("inspect none.pt", "no such file: none.pt"),
        ("convert m.pt", "the following arguments are required: -o/--output"),
        ("check m.pt --backend abacus", "invalid choice"),
        (
            "convert cell.pt -o x.safetensors --batch-first --dropout 0.1",
            "--batch-first and --dropout cannot be used with an LSTMCell",
        ),
        ("run m.pt --prefix a --input none.npy -o y.npy", "no such file: none.npy"),
        ("convert none.pt -o no/x.pt", "no/x.pt: the folder no does not exist; create it or choose another"),
        ("convert rnn.pt -o x.pt", "the root is an RNN"),
        (
            "convert m.pt -o x.pt --batch_first",
            "--batch_first; did you mean --batch-first? (see jaxlstm conv",
        ),
        ("export m.pt --prefix a -o x.stablehlo --platforms abacus", "--platforms must be some of"),
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
    done = jaxlstm_command("convert", "m.pt", "-o", "x.safetensors", *arguments, status=0)
    assert done.err.startswith("jaxlstm convert: warning: dropout=0.5 has no effect")
    assert done.err.count("\n") == 1


def test_inspect_an_rnn(folder: Path) -> None:
    text = jaxlstm_command("inspect", "rnn.pt").out
    assert "No LSTM found. --all lists every layer." in text
    assert "not an LSTM: (root) is an RNN" in text


INDEX = "model.safetensors.index.json"
MODEL = {"head.weight": torch.ones(2), **torch.nn.LSTM(3, 4).state_dict(prefix="lstm.")}


def sharded(folder: Path) -> Path:
    """Write a model in two shards; return the index."""
    names = list(MODEL)
    weight_map = {name: f"shard{k % 2}.safetensors" for k, name in enumerate(names)}
    for file in set(weight_map.values()):
        part = {name: MODEL[name] for name in names if weight_map[name] == file}
        safetensors.torch.save_file(part, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder / INDEX


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the working directory, with ``model.pt`` under several names."""
    monkeypatch.chdir(tmp_path)
    torch.save(MODEL, "model.pt")
    os.link("model.pt", "hard.pt")
    os.symlink("model.pt", "soft.pt")
    os.mkdir("folder")
    os.symlink(tmp_path, "link")
    return tmp_path


@pytest.mark.parametrize("command", ["convert", "export"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("model.pt", "model.pt"),
        ("model.pt", "link/model.pt"),
        ("model.pt", "hard.pt"),
        ("model.pt", "soft.pt"),
        ("link/hard.pt", "soft.pt"),
    ],
)
def test_the_input_is_not_replaced(
    command: str, overwrite: bool, source: str, output: str, model: Path
) -> None:
    if command == "export":
        pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    before = (model / "model.pt").read_bytes()
    options = ["--overwrite"] if overwrite else []
    assert jaxlstm_command(command, source, "-o", output, *options, status=2).err == (
        f"jaxlstm {command}: -o {output} would replace the input {source}; choose another path\n"
    )
    assert (model / "model.pt").read_bytes() == before
    assert os.path.samefile("model.pt", "hard.pt")
    assert os.path.islink("soft.pt")


@pytest.mark.parametrize("output", [INDEX, "shard0.safetensors", "shard1.safetensors"])
def test_shards_are_inputs(output: str, tmp_path: Path) -> None:
    index = sharded(tmp_path)
    before = (tmp_path / output).read_bytes()
    options = ["-o", tmp_path / output, "--format", "safetensors", "--overwrite"]
    assert "would replace the input" in jaxlstm_command("convert", index, *options, status=2).err
    assert (tmp_path / output).read_bytes() == before


@pytest.mark.parametrize("output", ["model.pt", "hard.pt", "soft.pt", "link/model.pt", "my_port.py"])
def test_a_report_does_not_replace_an_input(output: str, model: Path) -> None:
    (model / "my_port.py").write_text("port = print")
    before = (model / output).read_bytes()
    options = ["--port", "my_port.py:port", "--overwrite", "--report", output]
    done = jaxlstm_command("check", "model.pt", *options, status=2)
    assert f"--report {output} would replace the input" in done.err
    assert (model / output).read_bytes() == before


def test_a_report_replaces_only_a_report(model: Path) -> None:
    (model / "notes.html").write_text("<!doctype html>mine")
    command = ["check", "model.pt", "--dtype", "float32", "--report", "notes.html"]
    assert "notes.html exists and was not written by jaxlstm" in jaxlstm_command(*command, status=2).err
    assert (model / "notes.html").read_text() == "<!doctype html>mine"
    assert jaxlstm_command(*command, "--overwrite").status == 0
    assert is_html_page(model / "notes.html")
    os.remove("model.pt")  # The report is accepted now; the checkpoint is missing.
    assert "no such file: model.pt" in jaxlstm_command(*command).err
