"""Real checkpoints: tensors equal the original library's, and the LSTMs are found."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm import find_lstms, load, load_optimizer, read_checkpoint
from testing.checkpoints.compare import assert_same_bits
from testing.real_files import BY_LABEL, FILES, Real

pytestmark = pytest.mark.network


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_tensors(real: Real) -> None:
    path = real.path()
    ours, theirs = read_checkpoint(path), real.read(path)
    assert ours.container == real.container
    assert ours.keys() == theirs.keys() | real.only_ours
    for name, tensor in theirs.items():
        assert_same_bits(ours[name], tensor)


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_lstms(real: Real) -> None:
    """The Adam moments of resemblyzer have the shapes of its LSTM, but are not listed."""
    checkpoint = read_checkpoint(real.path())
    assert find_lstms(checkpoint) == real.lstms
    assert checkpoint.hints == real.hints
    assert checkpoint.warnings == []


def test_a_pickled_module_and_its_state_dict_are_equal() -> None:
    module, weights = (read_checkpoint(BY_LABEL[n].path()) for n in ("beatnet-module", "beatnet"))
    assert list(module) == list(weights)
    assert all(np.asarray(module[n]).tobytes() == np.asarray(weights[n]).tobytes() for n in weights)


def test_the_onnx_and_torchscript_files_hold_the_same_cell() -> None:
    """The gates of the ONNX file are in another order; apart from that, the bits are equal."""
    params, _ = load(BY_LABEL["silero-onnx"].path(), batch_first=False, dropout=0.0)
    cell, _ = load(BY_LABEL["silero-torchscript"].path(), prefix="_model.decoder.rnn")
    assert {f"{name}_l0" for name in cell} == params.keys()
    for name, array in cell.items():
        assert np.asarray(params[f"{name}_l0"]).tobytes() == np.asarray(array).tobytes(), name


def test_the_optimizer_of_resemblyzer() -> None:
    path = BY_LABEL["resemblyzer"].path()
    checkpoint = read_checkpoint(path)
    assert sum(name.startswith("optimizer_state.state.") for name in checkpoint) > 20
    params, config = load(path, batch_first=False, dropout=0.0)
    optimizer = load_optimizer(path, params, config)
    shapes = {name: array.shape for name, array in params.items()}
    adam = next(s for s in optimizer.state if hasattr(s, "mu"))  # type: ignore[union-attr]
    assert {name: array.shape for name, array in adam.mu.items()} == shapes
