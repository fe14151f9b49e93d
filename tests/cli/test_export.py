"""``jaxlstm export``: a file, read back and compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm import cli, load, lstm, save
from jaxlstm.inference import load_exported

pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")

DEMO = str(Path(__file__).parents[2] / "examples" / "demo.pt")


@pytest.mark.parametrize("weights", ["inside", "beside"])
def test_export(weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.stablehlo"
    options = ["--weights", weights, "--platforms", "cpu,tpu", "--batch-first", "--json"]
    assert cli.main(["export", DEMO, "-o", str(output), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["platforms"] == ["cpu", "tpu"]
    assert report["largest_difference"] <= 1e-6
    assert (tmp_path / "m.safetensors").exists() == (weights == "beside")
    params, config = load(DEMO, batch_first=True)
    x = np.random.default_rng(0).standard_normal((2, 7, 16)).astype(np.float32)
    outputs, _ = load_exported(output)(x)
    wanted, _ = lstm(params, x, config=config, backend="scan")
    np.testing.assert_allclose(outputs, wanted, rtol=0, atol=1e-6)


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "m.stablehlo")
    for arguments, message in (
        ([DEMO, "-o", output, "--platforms", "abacus"], "platforms must be some of"),
        ([DEMO, "-o", str(tmp_path / "nowhere" / "m")], "nowhere"),
        ([DEMO, "-o", str(tmp_path / "m.safetensors")], "must not end in .safetensors"),
    ):
        assert cli.main(["export", *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("checkpoint", "output"),
    [("m.safetensors", "m.stablehlo"), ("m.safetensors", "m"), ("m.pt", "m.pt")],
)
def test_the_checkpoint_is_not_replaced(
    checkpoint: str, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor by the weights beside the output, whose natural name is often just that."""
    path = tmp_path / checkpoint
    save(path, *load(DEMO), prefix="lstm.")
    before = path.read_bytes()
    options = ["-o", str(tmp_path / output), "--platforms", "cpu", "--weights", "beside"]
    assert cli.main(["export", str(path), *options]) == 2
    assert "which is the checkpoint; take another name" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_flatbuffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    assert cli.main(["export", DEMO, "-o", str(tmp_path / "m.stablehlo")]) == 2
    assert "pip install 'jaxlstm[export]'" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [0.9, np.nan])
def test_a_wrong_artifact_is_status_1(
    wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxlstm.inference import artifact

    right = artifact.lstm

    def scaled(*arguments: Any, **options: Any) -> Any:
        outputs, state = right(*arguments, **options)
        return outputs, state._replace(c=wrong * state.c)

    monkeypatch.setattr(artifact, "lstm", scaled)
    assert cli.main(["export", DEMO, "-o", str(tmp_path / "m.stablehlo")]) == 1
