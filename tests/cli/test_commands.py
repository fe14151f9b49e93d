"""The command line as a user runs it: a process, its exit status, and what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxlstm

DEMO = Path(__file__).parents[2] / "examples" / "demo.pt"


def jaxlstm_command(
    *arguments: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jaxlstm", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_inspect_lists_the_lstm() -> None:
    done = jaxlstm_command("inspect", DEMO)
    assert done.returncode == 0, done.stderr
    assert "torch zip" in done.stdout
    assert "16 -> 24, num_layers=2, bidirectional=True" in done.stdout
    found = json.loads(jaxlstm_command("inspect", DEMO, "--json").stdout)
    (lstm,) = found["lstms"]
    config = jaxlstm.LSTMConfig(16, 24, num_layers=2, bidirectional=True)
    assert lstm["prefix"] == "model_state_dict.tagger.lstm."
    assert lstm["parameters"] == sum(np.prod(s) for s in jaxlstm.param_shapes(config).values())


def test_inspect_says_what_is_no_lstm_or_not_whole(tmp_path: Path) -> None:
    broken = dict(torch.nn.LSTM(3, 4).state_dict())
    del broken["bias_hh_l0"]
    torch.save({"gru": torch.nn.GRU(3, 4).state_dict(), "lstm": broken}, tmp_path / "m.pt")
    done = jaxlstm_command("inspect", tmp_path / "m.pt")
    assert done.returncode == 1
    assert "gru. is a GRU" in done.stdout
    assert "missing lstm.bias_hh_l0 (16,)" in done.stdout


@pytest.mark.parametrize("output", ["m.safetensors", "m.msgpack", "m_orbax"])
def test_port_writes_what_load_reads(output: str, tmp_path: Path) -> None:
    done = jaxlstm_command(
        "convert", DEMO, "-o", tmp_path / output, "--batch-first", "--dropout", 0.5, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bit_exact"] is True
    params, config = jaxlstm.load(tmp_path / output)
    assert config == jaxlstm.LSTMConfig(
        16, 24, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5
    )
    wanted, _ = jaxlstm.load(DEMO)
    assert all(np.array_equal(params[name], wanted[name]) for name in wanted)


def test_port_back_to_torch(tmp_path: Path) -> None:
    output = tmp_path / "m.pt"
    done = jaxlstm_command("convert", DEMO, "-o", output, "--batch-first", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bit_exact"] is True
    module = torch.nn.LSTM(16, 24, 2, bidirectional=True)
    module.load_state_dict(torch.load(output, weights_only=True), strict=True)
    wanted, _ = jaxlstm.load(DEMO)
    assert all(np.array_equal(wanted[name], p.detach()) for name, p in module.named_parameters())


def test_check_holds_and_reports(tmp_path: Path) -> None:
    torch.save(torch.nn.LSTM(3, 4).state_dict(), tmp_path / "m.pt")
    page = tmp_path / "report.html"
    done = jaxlstm_command(
        "check",
        tmp_path / "m.pt",
        "--dtype",
        "float32",
        "--backend",
        "all",
        "--json",
        "--report",
        page,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"] is True
    (report,) = [r for r in verdict["reports"] if r["backend"] == "cpu"]
    assert report["dtype"] == "float32"
    assert any(
        "weight_hh_l0" in json.dumps(item) or "gradient" in item["name"] for item in report["items"]
    )
    assert set(verdict["not_run"]) | {r["backend"] for r in verdict["reports"]} == {
        "cpu",
        "gpu",
        "tpu",
    }
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "missing.pt"), "missing.pt"),
        (("inspect", __file__), "test_commands.py"),
        (("inspect", Path(__file__).parent), "cli"),
        (
            ("convert", DEMO, "-o", "x.safetensors", "--prefix", "nothing"),
            "prefix 'nothing' is no LSTM",
        ),
        (("convert", DEMO, "-o", "/nowhere/x.safetensors"), "/nowhere"),
        (("convert", DEMO, "-o", "x.bin"), "format must be given for a path that ends in '.bin'"),
        (("check", DEMO, "--report", "/nowhere/r.html"), "its folder does not exist"),
        (("check", DEMO, "--report", "/tmp"), "--report /tmp: is a folder, wanted a file"),
        (("check", DEMO, "--seed", "-1"), "seed must be 0 or more, got -1"),
        (
            ("check", DEMO, "--report", "/nowhere/r.html"),
            "--report /nowhere/r.html: its folder does not exist",
        ),
        (("convert", DEMO), "the following arguments are required: -o/--output"),
        (("check", DEMO, "--backend", "abacus"), "invalid choice"),
        (("check", DEMO, "--backend", "tpu"), "--backend tpu: JAX finds no such device"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: tuple, message: str) -> None:
    done = jaxlstm_command(*arguments, env={"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("output", ["m.safetensors", "m.pt", "m.msgpack", "m_orbax"])
def test_inspect_opens_what_port_writes(output: str, tmp_path: Path) -> None:
    assert jaxlstm_command("convert", DEMO, "-o", tmp_path / output).returncode == 0
    done = jaxlstm_command("inspect", tmp_path / output)
    assert done.returncode == 0, done.stderr
    assert "16 -> 24, num_layers=2, bidirectional=True" in done.stdout


def test_check_of_a_wrong_layer_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate and the output gate change places in what is run, not in what it is held against."""
    from jaxlstm import cli, stack

    right = stack.direction_params

    def wrong(*arguments: Any) -> dict[str, Any]:
        params = right(*arguments)
        i, f, g, o = jnp.split(params["weight_ih"], 4)
        return {**params, "weight_ih": jnp.concatenate([i, f, o, g])}

    monkeypatch.setattr(stack, "direction_params", wrong)
    torch.save(torch.nn.LSTM(3, 4).state_dict(), tmp_path / "m.pt")
    assert cli.main(["check", str(tmp_path / "m.pt"), "--dtype", "float32"]) == 1


def test_debug_gives_the_traceback() -> None:
    done = jaxlstm_command("inspect", "missing.pt", env={"JAXLSTM_DEBUG": "1"})
    assert done.returncode != 0
    assert "Traceback" in done.stderr
