"""Real checkpoints: the tensors of the original library; LSTMs are found and exact by every criterion."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState, find_lstms, load, load_optimizer, lstm, read_checkpoint
from testing.checkpoints.compare import assert_same_bits
from testing.real_files import BY_LABEL, EACH_LSTM, FILES, Real
from testing.real_lstms import assert_real_lstm_is_as_exact_as_torch, assert_verdict_holds

pytestmark = pytest.mark.network

LARGE = ("resemblyzer", "beatnet", "beatnet-module", "silero-torchscript")


def each_lstm(slow: tuple[str, ...] = ()) -> list[Any]:
    """Every LSTM; the files in ``slow`` take a minute or more."""
    return [
        pytest.param(
            real, prefix, id=f"{real.label}-{prefix}", marks=[pytest.mark.slow] if real.label in slow else []
        )
        for real, prefix in EACH_LSTM
    ]


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


@pytest.mark.parametrize(("real", "prefix"), each_lstm())
def test_as_exact_as_torch_in_float32(real: Real, prefix: str) -> None:
    assert_real_lstm_is_as_exact_as_torch(real, prefix)


@pytest.mark.parametrize(("real", "prefix"), each_lstm(slow=LARGE))
def test_verify(real: Real, prefix: str) -> None:
    assert_verdict_holds(real, prefix)


def test_calls_that_pass_on_the_state_equal_one_call() -> None:
    """BeatNet runs its LSTM frame by frame and keeps the state."""
    real = BY_LABEL["beatnet"]
    params, config = load(real.path(), batch_first=True, dropout=0.0)
    x = np.random.default_rng(0).standard_normal((1, 30, 150)).astype(np.float32)
    run = jax.jit(lambda x, state: lstm(params, x, state, config=config))
    zeros = LSTMState(jnp.zeros((2, 1, 150)), jnp.zeros((2, 1, 150)))
    whole, final = run(x, zeros)
    state, pieces = zeros, []
    for t in range(30):
        y, state = run(x[:, t : t + 1], state)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.c, final.c, rtol=0, atol=2e-6)
