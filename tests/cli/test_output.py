"""A command never replaces its input, and replaces other files only on request."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from jaxlstm import load
from jaxlstm.check.report.html import is_html_page
from jaxlstm.cli.options import checkpoint_files, require_output
from testing.command import jaxlstm_command

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
        ("model.pt", "folder/../model.pt"),
        ("model.pt", "link/model.pt"),
        ("model.pt", "hard.pt"),
        ("model.pt", "soft.pt"),
        ("soft.pt", "model.pt"),
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
    done = jaxlstm_command(command, source, "-o", output, *options)
    assert done.status == 2
    assert done.err == (
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
    done = jaxlstm_command("convert", index, *options)
    assert done.status == 2
    assert "would replace the input" in done.err
    assert (tmp_path / output).read_bytes() == before


def test_files_of_a_checkpoint(tmp_path: Path) -> None:
    assert [path.name for path in checkpoint_files(sharded(tmp_path))] == [
        INDEX,
        "shard0.safetensors",
        "shard1.safetensors",
    ]
    for text in ("", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        (tmp_path / "x.json").write_text(text)
        assert checkpoint_files(tmp_path / "x.json") == [tmp_path / "x.json"]
    assert checkpoint_files("missing.pt") == [Path("missing.pt")]


def test_a_directory_is_one_input(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    for output in (path, path / "new.safetensors", tmp_path):
        with pytest.raises(ValueError, match="would replace the input"):
            require_output(output, [path])
    require_output(tmp_path / "other", [path, tmp_path / "missing"])


def test_another_file_needs_overwrite(model: Path) -> None:
    (model / "notes.safetensors").write_text("mine")
    done = jaxlstm_command("convert", "model.pt", "-o", "notes.safetensors")
    assert done.status == 2
    assert "notes.safetensors exists and was not written by jaxlstm" in done.err
    assert (model / "notes.safetensors").read_text() == "mine"
    for _ in range(2):  # the second time, jaxlstm wrote it
        done = jaxlstm_command("convert", "model.pt", "-o", "notes.safetensors", "--overwrite")
        assert done.status == 0
    assert jaxlstm_command("convert", "model.pt", "-o", "notes.safetensors").status == 0
    params, _ = load("notes.safetensors", batch_first=False)
    np.testing.assert_array_equal(params["weight_hh_l0"], MODEL["lstm.weight_hh_l0"].numpy())


@pytest.mark.parametrize("output", ["model.pt", "hard.pt", "soft.pt", "link/model.pt", "my_port.py"])
def test_a_report_does_not_replace_an_input(output: str, model: Path) -> None:
    (model / "my_port.py").write_text("port = print")
    before = (model / output).read_bytes()
    options = ["--port", "my_port.py:port", "--overwrite", "--report", output]
    done = jaxlstm_command("check", "model.pt", *options)
    assert done.status == 2
    assert f"--report {output} would replace the input" in done.err
    assert (model / output).read_bytes() == before


def test_a_report_replaces_only_a_report(model: Path) -> None:
    (model / "notes.html").write_text("<!doctype html>mine")
    command = ["check", "model.pt", "--dtype", "float32", "--report", "notes.html"]
    done = jaxlstm_command(*command)
    assert done.status == 2
    assert "notes.html exists and was not written by jaxlstm" in done.err
    assert (model / "notes.html").read_text() == "<!doctype html>mine"
    assert jaxlstm_command(*command, "--overwrite").status == 0
    assert is_html_page(model / "notes.html")
    os.remove("model.pt")  # The report is accepted now; the checkpoint is missing.
    assert "no such file: model.pt" in jaxlstm_command(*command).err
