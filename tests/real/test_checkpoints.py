"""Real checkpoints: the tensors of the original library, exact LSTMs, and their layers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from jaxlstm import find_lstms, read_checkpoint
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
