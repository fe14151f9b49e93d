"""The commands ``inspect`` and ``convert``, and how processes of all commands end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import cli
from testing.command import jaxlstm_command
from testing.processes import python_environment, run_python

DEMO = Path(__file__).parents[2] / "examples" / "demo.pt"
CONFIG = jaxlstm.LSTMConfig(16, 24, num_layers=2, bidirectional=True)


def test_python_m_jaxlstm() -> None:
    assert "torch zip" in run_python("-m", "jaxlstm", "inspect", DEMO)


@pytest.mark.parametrize("arguments", [("inspect", DEMO), ("--help",)])
def test_a_closed_pipe_ends_the_command_silently(arguments: tuple[object, ...]) -> None:
    """``jaxlstm ... | head`` closes its end early."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "jaxlstm", *map(str, arguments)],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=python_environment(PYTHONUNBUFFERED=""),
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_inspect_lists_the_lstm() -> None:
    done = jaxlstm_command("inspect", DEMO, status=0)
    assert "16 -> 24, num_layers=2, bidirectional=True" in done.out
    assert "not recorded: batch_first and dropout" in done.out
    (lstm,) = json.loads(jaxlstm_command("inspect", DEMO, "--json").out)["lstms"]
    assert lstm["prefix"] == "model_state_dict.tagger.lstm."
    assert lstm["parameters"] == sum(np.prod(s) for s in jaxlstm.param_shapes(CONFIG).values())
    assert lstm["not_recorded"] == ["batch_first", "dropout"]


def test_inspect_reports_invalid_and_other_layers(tmp_path: Path) -> None:
    invalid = dict(torch.nn.LSTM(3, 4).state_dict())
    del invalid["bias_hh_l0"]
    torch.save({"gru": torch.nn.GRU(3, 4).state_dict(), "lstm": invalid}, tmp_path / "m.pt")
    for options, gru in (((), "gru. is a GRU"), (("--all",), "3 -> 4")):
        done = jaxlstm_command("inspect", tmp_path / "m.pt", *options, status=1)
        assert gru in next(line for line in done.out.splitlines() if "gru" in line)
        assert "INVALID: the LSTM at 'lstm.'" in done.out
        assert "missing lstm.bias_hh_l0 (16,)" in done.out
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    done = jaxlstm_command("inspect", tmp_path / "empty.pt", "--all")
    assert (done.status, "No layer found." in done.out) == (1, True)


def test_inspect_all_lists_every_layer() -> None:
    done = jaxlstm_command("inspect", DEMO, "--all", status=0)
    layers = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[2:] if line}
    assert layers["model_state_dict.mark"] == ["Linear", "48", "->", "7", "float32", "343", "1.5%"]
    assert "Embedding: padding_idx" in done.out
    model = torch.load(DEMO, weights_only=True)["model_state_dict"]
    assert f"left out: {3 * len(model)} tensors of optimizers" in done.out  # Adam's step and moments
    report = json.loads(jaxlstm_command("inspect", DEMO, "--all", "--json").out)
    assert report["parameters"] == sum(tensor.numel() for tensor in model.values())
    assert sum(layer["share"] for layer in report["layers"]) == pytest.approx(1)
    (lstm,) = report["lstms"]
    assert report["lstm_share"] == lstm["parameters"] / report["parameters"]


def test_inspect_all_of_a_model_without_an_lstm(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, bias=False), torch.nn.LayerNorm(4))
    torch.save({**model.state_dict(), "temperature": torch.ones(())}, tmp_path / "m.pt")
    assert jaxlstm_command("inspect", tmp_path / "m.pt").status == 1
    done = jaxlstm_command("inspect", tmp_path / "m.pt", "--all", status=0)
    assert "Conv2d?: the tensors also fit ConvTranspose2d" in done.out
    assert "LayerNorm?: the tensors also fit GroupNorm and InstanceNorm" in done.out
    assert "kernel_size=3x3" in done.out
    assert "(tensor)    scalar" in done.out
    assert "LSTMs: 0.0%" in done.out


@pytest.mark.parametrize("output", ["m.safetensors", "m.pt"])
def test_convert_and_inspect_every_format(output: str, tmp_path: Path) -> None:
    path = tmp_path / output
    done = jaxlstm_command("convert", DEMO, "-o", path, "--batch-first", "--dropout", 0.5, "--json", status=0)
    assert json.loads(done.out)["bit_exact"] is True
    expected, _ = jaxlstm.load(DEMO, batch_first=False, dropout=0.0)
    if output == "m.pt":
        module = torch.nn.LSTM(16, 24, 2, bidirectional=True)
        module.load_state_dict(torch.load(path, weights_only=True), strict=True)
    params, config = jaxlstm.load(path)
    assert (config.batch_first, config.dropout) == (True, 0.5)
    assert params.keys() == expected.keys()
    assert all(np.array_equal(params[name], expected[name]) for name in expected)
    done = jaxlstm_command("inspect", path, status=0)
    assert "16 -> 24, num_layers=2, " in done.out
    assert "not recorded" not in done.out
    (layer,) = json.loads(jaxlstm_command("inspect", path, "--all", "--json").out)["layers"]
    assert layer["types"] == ["LSTM"]


def test_convert_reports_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = sys.modules["jaxlstm_converters.write._save"].save

    def wrong(path: Path, params: Any, *arguments: Any, **options: Any) -> None:
        save(path, {name: -p for name, p in params.items()}, *arguments, **options)

    monkeypatch.setattr("jaxlstm_converters.write._save.save", wrong)
    done = jaxlstm_command("convert", DEMO, "-o", tmp_path / "m.safetensors")
    assert (done.status, done.out.splitlines()[-1]) == (1, "READ BACK: BITS DIFFER")


def test_a_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_devices(platform: str) -> None:
        raise RuntimeError(f"Unknown backend {platform}")

    monkeypatch.setattr("jax.devices", no_devices)
    done = jaxlstm_command("check", DEMO, "--backend", "tpu")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "--backend tpu: JAX finds no such device" in done.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXLSTM_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["inspect", "missing.pt"])
