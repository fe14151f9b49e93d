"""Real checkpoints: every tensor is the one that its own library reads, and the LSTMs in it are found."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm import find_lstms, load, load_optimizer, read_checkpoint
from tests.support.checkpoints.compare import assert_same_bits
from tests.support.real_files import BY_LABEL, FILES, Real

pytestmark = pytest.mark.network


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_names_shapes_bits(real: Real) -> None:
    path = real.path()
    ours, theirs = read_checkpoint(path), real.read(path)
    assert ours.container == real.container
    assert ours.keys() == theirs.keys() | real.ours_alone
    for name, tensor in theirs.items():
        assert_same_bits(ours[name], tensor)


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.label)
def test_the_lstms_that_are_found(real: Real) -> None:
    """These and no others: resemblyzer's moments of Adam are of the same shapes."""
    checkpoint = read_checkpoint(real.path())
    assert find_lstms(checkpoint) == real.lstms
    assert checkpoint.hints == real.hints
    assert checkpoint.warnings == []


def test_the_pickled_module_holds_the_weights_of_the_state_dict() -> None:
    module, weights = (read_checkpoint(BY_LABEL[n].path()) for n in ("beatnet-module", "beatnet"))
    assert list(module) == list(weights)
    assert all(np.asarray(module[n]).tobytes() == np.asarray(weights[n]).tobytes() for n in weights)


def test_the_onnx_file_holds_the_cell_of_the_torchscript_file() -> None:
    """Bit for bit, once in torch's gate order: two files that others made, by two exporters."""
    params, _ = load(BY_LABEL["silero-onnx"].path())
    cell, _ = load(BY_LABEL["silero-torchscript"].path(), prefix="_model.decoder.rnn")
    assert {f"{name}_l0" for name in cell} == params.keys()
    for name, array in cell.items():
        assert np.asarray(params[f"{name}_l0"]).tobytes() == np.asarray(array).tobytes(), name


def test_the_moments_of_resemblyzer_belong_to_its_lstm() -> None:
    """`optimizer_state` is no LSTM, and is the state of this one."""
    path = BY_LABEL["resemblyzer"].path()
    checkpoint = read_checkpoint(path)
    assert sum(name.startswith("optimizer_state.state.") for name in checkpoint) > 20
    params, config = load(path)
    optimizer = load_optimizer(path, params, config)
    shapes = {name: array.shape for name, array in params.items()}
    adam = next(s for s in optimizer.state if hasattr(s, "mu"))  # type: ignore[union-attr]
    assert {name: array.shape for name, array in adam.mu.items()} == shapes
