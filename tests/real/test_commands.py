"""inspect, convert and check on real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jaxlstm
from jaxlstm.layer.config import config_to_dict
from jaxlstm_converters.lstm._load import read_lstm
from testing.command import jaxlstm_command
from testing.real_files import BY_LABEL, EACH_LSTM, FILES, Real

pytestmark = pytest.mark.network


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_inspect(real: Real) -> None:
    done = jaxlstm_command("inspect", real.path(), "--json")
    assert done.status == 0
    found = json.loads(done.out)
    assert found["container"] == real.container
    listed = {lstm["prefix"]: lstm["config"] for lstm in found["lstms"]}
    assert listed == {prefix: config_to_dict(config) for prefix, config in real.lstms.items()}
    for lstm in found["lstms"]:
        config = real.lstms[lstm["prefix"]]
        recorded = real.hints or isinstance(config, jaxlstm.LSTMCellConfig)
        missing = ["batch_first", "dropout"] if config.num_layers > 1 else ["batch_first"]
        assert lstm["not_recorded"] == ([] if recorded else missing)
    assert not found["broken"]
    assert not found["others"]
    assert not found["warnings"]
    text = jaxlstm_command("inspect", real.path()).out
    assert all(prefix in text for prefix in real.lstms)


LAYERS = {
    "resemblyzer": {"model_state.lstm": "LSTM", "model_state.linear": "Linear"},
    "beatnet": {"conv1": "Conv1d", "linear0": "Linear", "lstm": "LSTM", "linear": "Linear"},
    "silero-safetensors": {
        "stft_conv": "Conv1d",
        **{f"conv{k}": "Conv1d" for k in range(1, 5)},
        "lstm_cell": "LSTMCell",
        "final_conv": "Conv1d",
    },
    "g2pm": {"embedding": "Embedding", "lstm": "LSTM", "logit_layer.0": "Linear", "logit_layer.2": "Linear"},
}
LAYERS["beatnet-module"] = LAYERS["beatnet"]


@pytest.mark.parametrize("label", LAYERS)
def test_inspect_all(label: str) -> None:
    """The types agree with the packages' source; two scalars of resemblyzer belong to no layer."""
    real = BY_LABEL[label]
    report = json.loads(jaxlstm_command("inspect", real.path(), "--all", "--json").out)
    types = {layer["name"]: layer["types"] for layer in report["layers"] if layer["types"]}
    assert types == {name: [kind] for name, kind in LAYERS[label].items()}
    tensors = {n: t for n, t in real.read(real.path()).items() if not n.startswith("optimizer_state")}
    assert report["parameters"] == sum(np.prod(tuple(t.shape)) for t in tensors.values())


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize(
    ("real", "prefix"), EACH_LSTM, ids=[f"{real.label}-{prefix}" for real, prefix in EACH_LSTM]
)
def test_convert(real: Real, prefix: str, suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"converted.{suffix}"
    select = ["--prefix", prefix] if len(real.lstms) > 1 else []
    assert jaxlstm_command("convert", real.path(), "-o", output, *select).status == 0
    converted, config, *_ = read_lstm(output)
    if suffix == "safetensors":  # a torch file does not record batch_first
        assert config == real.lstms[prefix]
    theirs = real.read(real.path())
    for name, array in converted.items():
        assert array.tobytes() == np.asarray(theirs[prefix + name]).tobytes(), name


def test_several_lstms_need_a_prefix(tmp_path: Path) -> None:
    path = BY_LABEL["silero-torchscript"].path()
    done = jaxlstm_command("convert", path, "-o", tmp_path / "x.safetensors")
    assert done.status == 2
    assert "'_model.decoder.rnn.', '_model_8k.decoder.rnn.'" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("label", "arguments"),
    [
        ("silero-safetensors", ["--dtype", "float32"]),
        pytest.param("beatnet", ["--batch-first"], marks=pytest.mark.slow),
        pytest.param("resemblyzer", ["--batch-first"], marks=pytest.mark.slow),
        pytest.param("g2pm", [], marks=pytest.mark.slow),
    ],
)
def test_check_of_a_converted_file(label: str, arguments: list[str], tmp_path: Path) -> None:
    converted = tmp_path / f"{label}.safetensors"
    select = [argument for argument in arguments if argument == "--batch-first"]
    done = jaxlstm_command("convert", BY_LABEL[label].path(), "-o", converted, *select)
    assert done.status == 0
    assert done.out.endswith("read back: all bits equal\n")
    done = jaxlstm_command("check", converted, "--json", *arguments)
    assert done.status == 0
    verdict = json.loads(done.out)
    assert verdict["ok"] is True
    dtypes = ["float32"] if "--dtype" in arguments else ["float32", "float64"]
    assert [report["dtype"] for report in verdict["reports"]] == dtypes
