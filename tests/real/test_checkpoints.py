"""Real checkpoints: the tensors of the original library, exact LSTMs, and the command line on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm import LSTMCellConfig, find_lstms, read_checkpoint
from jaxlstm.layer.config import config_to_dict
from jaxlstm_converters.lstm._load import read_lstm
from testing.checkpoints.compare import assert_same_bits
from testing.command import jaxlstm_command
from testing.real_files import BY_LABEL, EACH_LSTM, FILES, Real, assert_verdict_holds

pytestmark = pytest.mark.network

LARGE = ("resemblyzer", "beatnet", "beatnet-module", "silero-torchscript")


def each_lstm(slow: tuple[str, ...] = ()) -> Any:
    """Run a test with every LSTM; the files in ``slow`` take a minute or more."""
    rows = [
        pytest.param(*row, id=f"{row[0].label}-{row[1]}", marks=[pytest.mark.slow] * (row[0].label in slow))
        for row in EACH_LSTM
    ]
    return pytest.mark.parametrize(("real", "prefix"), rows)


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_tensors_and_lstms(real: Real) -> None:
    path = real.path()
    ours, theirs = read_checkpoint(path), real.read(path)
    assert ours.container == real.container
    assert ours.keys() == theirs.keys() | real.only_ours
    for name, tensor in theirs.items():
        assert_same_bits(ours[name], tensor)
    # The Adam moments of resemblyzer have the shapes of its LSTM, but are not listed.
    assert find_lstms(ours) == real.lstms
    assert ours.hints == real.hints
    assert ours.warnings == []


def test_a_pickled_module_and_its_state_dict_are_equal() -> None:
    module, weights = (read_checkpoint(BY_LABEL[n].path()) for n in ("beatnet-module", "beatnet"))
    assert list(module) == list(weights)
    assert all(np.asarray(module[n]).tobytes() == np.asarray(weights[n]).tobytes() for n in weights)


@each_lstm(slow=LARGE)
def test_verify(real: Real, prefix: str) -> None:
    assert_verdict_holds(real, prefix)


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_inspect(real: Real) -> None:
    done = jaxlstm_command("inspect", real.path(), "--json")
    assert done.status == 0
    found = json.loads(done.out)
    assert found["container"] == real.container
    listed = {entry["prefix"]: entry["config"] for entry in found["lstms"]}
    assert listed == {prefix: config_to_dict(config) for prefix, config in real.lstms.items()}
    for entry in found["lstms"]:
        config = real.lstms[entry["prefix"]]
        recorded = real.hints or isinstance(config, LSTMCellConfig)
        missing = ["batch_first", "dropout"] if config.num_layers > 1 else ["batch_first"]
        assert entry["not_recorded"] == ([] if recorded else missing)
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
@each_lstm()
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
