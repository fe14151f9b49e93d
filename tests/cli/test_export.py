"""``jaxlstm export``: the artifact is written, read back and compared."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlstm import load, save
from testing.command import jaxlstm_command

pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")

DEMO = Path(__file__).parents[2] / "examples" / "demo.pt"


@pytest.mark.quick(".pt-inside", ".pt2-beside")
@pytest.mark.parametrize("weights", ["inside", "beside"])
@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_export(suffix: str, weights: str, tmp_path: Path) -> None:
    """The command compares the artifact with the LSTM or the program."""
    output = tmp_path / "m.stablehlo"
    command = ["export", DEMO.with_suffix(suffix), "--weights", weights, "--platforms", "cpu,tpu", "--json"]
    report = json.loads(jaxlstm_command(*command, "-o", output, status=0).out)
    assert report["platforms"] == ["cpu", "tpu"]
    assert report["largest_difference"] <= 1e-6
    assert report["weights"] == ("inside" if weights == "inside" else str(tmp_path / "m.safetensors"))
    assert (tmp_path / "m.safetensors").exists() == (weights == "beside")
    # The command replaces its own output, and nothing else.
    assert jaxlstm_command(*command, "-o", output).status == 0
    (tmp_path / "notes").write_text("mine")
    assert "was not written by jaxlstm" in jaxlstm_command(*command, "-o", tmp_path / "notes").err


def test_an_artifact_for_other_platforms_is_not_run(tmp_path: Path) -> None:
    other = "tpu" if jax.default_backend() == "cpu" else "cpu"
    done = jaxlstm_command("export", DEMO, "-o", tmp_path / "m.stablehlo", "--platforms", other, status=0)
    assert "not run: this machine has none of these platforms" in done.out


@pytest.mark.parametrize("output", ["m.stablehlo", "m"])
def test_separate_weights_do_not_replace_the_checkpoint(output: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, *load(DEMO, batch_first=False, dropout=0.0), prefix="lstm.")
    before = path.read_bytes()
    options = ["--platforms", "cpu", "--weights", "beside", "--overwrite"]
    done = jaxlstm_command("export", path, "-o", tmp_path / output, *options, status=2)
    assert f"{path} would replace the input {path}" in done.err
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("command", "file", "module", "extra"),
    [
        (["export", "-o", "m.stablehlo"], DEMO, "flatbuffers", "export"),
        (["export", "-o", "m.stablehlo"], DEMO.with_suffix(".pt2"), "flatbuffers", "export"),
        (["check"], DEMO.with_suffix(".pt2"), "torch", "torch"),
    ],
)
def test_without_a_package(
    command: list[str], file: Path, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    done = jaxlstm_command(command[0], file, *command[1:], status=2)
    assert f"{module} is not installed; install it with pip install 'jaxlstm[{extra}]'" in done.err


@pytest.mark.parametrize("factor", [0.9, np.nan])
def test_a_wrong_artifact_is_status_1(factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxlstm.inference import artifact

    right = artifact.lstm

    def scaled(*arguments: Any, **options: Any) -> Any:
        outputs, state = right(*arguments, **options)
        return outputs, state._replace(c=state.c.at[0, 0, 0].multiply(factor))

    monkeypatch.setattr(artifact, "lstm", scaled)
    options = ["--platforms", "cpu"]
    assert jaxlstm_command("export", DEMO, "-o", tmp_path / "m.stablehlo", *options).status == 1
