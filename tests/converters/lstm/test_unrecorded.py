"""``batch_first`` and ``dropout`` are not in a state dict: what is assumed is said, and recorded."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import LSTMConfig, load, save
from testing.command import jaxlstm_command
from testing.saved_params import random_params

CONFIG = LSTMConfig(3, 4, num_layers=2)
FILES = ("x.safetensors", "x.pt", "x.npz")
WARNING = (
    "jaxlstm convert: warning: m.pt does not record batch_first and dropout; assumed batch_first=False and "
    "dropout=0.0. Pass --batch-first or --no-batch-first and --dropout P\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.LSTM(3, 4, 2, batch_first=True).state_dict(), "m.pt")
    torch.save(torch.nn.LSTM(3, 4).state_dict(), "one.pt")
    torch.save(torch.nn.LSTMCell(3, 4).state_dict(), "cell.pt")
    torch.save(torch.nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5), "module.pt")
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "case",
    [
        (
            "m.pt",
            {},
            "^m.pt does not record batch_first and dropout of the LSTM; assumed batch_first=False and",
        ),
        ("m.pt", {"batch_first": True}, r"record dropout of the LSTM; assumed dropout=0\.0\. Pass the val"),
        ("one.pt", {}, r"record batch_first of the LSTM; assumed batch_first=False\. Pass"),
    ],
)
def test_load_warns(case: tuple[str, dict[str, Any], str]) -> None:
    path, arguments, message = case
    with pytest.warns(jaxlstm.PortingWarning, match=message):
        load(path, **arguments)


@pytest.mark.usefixtures("folder")
def test_load_does_not_warn_of_known_settings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("m.pt", batch_first=False, dropout=0.0)
        load("one.pt", batch_first=False)
        load("cell.pt")
        assert load("module.pt")[1] == LSTMConfig(3, 4, 2, batch_first=True, dropout=0.5)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("output", FILES)
def test_a_converted_file_records_the_assumption(output: str) -> None:
    done = jaxlstm_command("convert", "m.pt", "-o", output)
    assert (done.status, done.err) == (0, WARNING)
    with pytest.warns(
        jaxlstm.PortingWarning, match="does not record batch_first and dropout of the LSTM; assumed"
    ):
        assert load(output)[1] == CONFIG
    (lstm,) = json.loads(jaxlstm_command("inspect", output, "--json").out)["lstms"]
    assert lstm["not_recorded"] == ["batch_first", "dropout"]
    assert (
        "not recorded: batch_first and dropout of (root); convert and export assume batch_first=False and "
        "dropout=0.0 unless" in jaxlstm_command("inspect", output).out
    )
    # A conversion of the converted file warns again, and an option settles the matter.
    done = jaxlstm_command("convert", output, "-o", f"again{output[1:]}", "--batch-first", "--dropout", 0)
    assert (done.status, done.err) == (0, "")
    assert load(f"again{output[1:]}")[1] == LSTMConfig(3, 4, 2, batch_first=True)


@pytest.mark.usefixtures("folder")
def test_export_warns_and_check_does_not() -> None:
    pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    options = ["--platforms", "cpu", "--weights", "beside"]
    done = jaxlstm_command("export", "one.pt", "-o", "x.stablehlo", *options, "--json")
    assert done.status == 0
    assert "export: warning: one.pt does not record batch_first; assumed batch_first=False. Pass" in done.err
    assert json.loads(done.out)["config"]["assumed"] == ["batch_first"]
    with pytest.warns(jaxlstm.PortingWarning, match="does not record batch_first"):
        load("x.safetensors")
    assert jaxlstm_command("export", "one.pt", "-o", "y.stablehlo", *options, "--no-batch-first").err == ""
    # The checker runs every LSTM time-major and without dropout.
    assert jaxlstm_command("check", "one.pt", "--dtype", "float32").err == ""


def test_save_takes_assumptions(tmp_path: Path) -> None:
    params: Any = random_params(CONFIG, np.float32)
    save(tmp_path / "x.pt", params, CONFIG, assumed=["dropout"])
    with pytest.warns(
        jaxlstm.PortingWarning, match=r"does not record dropout of the LSTM; assumed dropout=0\.0"
    ):
        load(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"assumed must name some of .*got \('bias',\)"):
        save(tmp_path / "x.pt", params, CONFIG, assumed=["bias"])
    assert list(jaxlstm.find_lstms(tmp_path / "x.pt").values()) == [CONFIG]
