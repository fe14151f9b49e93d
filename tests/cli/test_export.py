"""``jaxlstm export``: a file, read back and compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxlstm import cli, load, lstm
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
        ([DEMO, "-o", str(tmp_path / "m.safetensors")], "take another"),
    ):
        assert cli.main(["export", *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert len(told.splitlines()) == 1


def test_a_wrong_artifact_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jaxlstm.inference import artifact

    right = artifact.lstm

    def wrong(params: dict, *arguments: object, **options: object) -> object:
        return right({name: 0.9 * leaf for name, leaf in params.items()}, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(artifact, "lstm", wrong)
    assert cli.main(["export", DEMO, "-o", str(tmp_path / "m.stablehlo")]) == 1
