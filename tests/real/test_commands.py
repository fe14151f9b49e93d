"""The three commands on real checkpoints, as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jaxlstm
from jaxlstm import cli
from jaxlstm.config_json import config_to_dict
from jaxlstm_converters.lstm._load import load_numpy
from tests.cli.test_commands import jaxlstm_command
from tests.support.real_files import BY_LABEL, EACH_LSTM, FILES, Real

pytestmark = pytest.mark.network


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_inspect(real: Real, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(real.path())
    assert cli.main(["inspect", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["container"] == real.container
    listed = {lstm["prefix"]: lstm["config"] for lstm in found["lstms"]}
    assert listed == {prefix: config_to_dict(config) for prefix, config in real.lstms.items()}
    for lstm in found["lstms"]:
        told = real.hints or isinstance(real.lstms[lstm["prefix"]], jaxlstm.LSTMCellConfig)
        assert lstm["untold"] == ([] if told else ["batch_first", "dropout"])
    assert not found["broken"]
    assert not found["others"]
    assert not found["warnings"]
    assert cli.main(["inspect", path]) == 0
    text = capsys.readouterr().out
    assert all(prefix in text for prefix in real.lstms)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize(
    ("real", "prefix"), EACH_LSTM, ids=[f"{real.label}-{prefix}" for real, prefix in EACH_LSTM]
)
def test_port(real: Real, prefix: str, ending: str, tmp_path: Path) -> None:
    output = tmp_path / f"ported.{ending}"
    select = ["--prefix", prefix] if len(real.lstms) > 1 else []
    assert cli.main(["convert", str(real.path()), "-o", str(output), *select]) == 0
    ported, config = load_numpy(output)
    if ending == "safetensors":  # a .pt file has no place for batch_first
        assert config == real.lstms[prefix]
    theirs = real.read(real.path())
    for name, array in ported.items():
        assert array.tobytes() == np.asarray(theirs[prefix + name]).tobytes(), name


def test_one_of_several_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(BY_LABEL["silero-torchscript"].path())
    assert cli.main(["convert", path, "-o", str(tmp_path / "x.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "'_model.decoder.rnn.', '_model_8k.decoder.rnn.'" in told
    assert len(told.splitlines()) == 1


# The lines of the README; the others differ in nothing but the time that they take.
@pytest.mark.parametrize(
    ("label", "arguments"),
    [
        ("silero-safetensors", ["--dtype", "float32"]),
        pytest.param("beatnet", ["--batch-first"], marks=pytest.mark.slow),
        pytest.param("resemblyzer", ["--batch-first"], marks=pytest.mark.slow),
        pytest.param("g2pm", [], marks=pytest.mark.slow),
    ],
)
def test_check_of_what_port_wrote(label: str, arguments: list[str], tmp_path: Path) -> None:
    ported = tmp_path / f"{label}.safetensors"
    select = [argument for argument in arguments if argument == "--batch-first"]
    done = jaxlstm_command("convert", BY_LABEL[label].path(), "-o", ported, *select)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("read back: every bit the same\n")
    done = jaxlstm_command("check", ported, "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"] is True
    wanted = ["float32"] if "--dtype" in arguments else ["float32", "float64"]
    assert [report["dtype"] for report in verdict["reports"]] == wanted
