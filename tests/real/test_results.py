"""LSTMs of real checkpoints: as exact as torch on realistic inputs, and ``verify`` passes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from testing.real_files import BY_LABEL, EACH_LSTM, Real
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


@pytest.mark.parametrize(("real", "prefix"), each_lstm())
def test_as_exact_as_torch_in_float32(real: Real, prefix: str) -> None:
    assert_real_lstm_is_as_exact_as_torch(real, prefix)


@pytest.mark.parametrize(("real", "prefix"), each_lstm(slow=LARGE))
def test_verify(real: Real, prefix: str) -> None:
    assert_verdict_holds(real, prefix)


def test_calls_that_pass_on_the_state_equal_one_call() -> None:
    """BeatNet runs its LSTM frame by frame and keeps the state."""
    real = BY_LABEL["beatnet"]
    params, config = jaxlstm.load(real.path(), batch_first=True, dropout=0.0)
    x = np.random.default_rng(0).standard_normal((1, 30, 150)).astype(np.float32)
    run = jax.jit(lambda x, state: jaxlstm.lstm(params, x, state, config=config))
    zeros = jaxlstm.LSTMState(jnp.zeros((2, 1, 150)), jnp.zeros((2, 1, 150)))
    whole, final = run(x, zeros)
    state, pieces = zeros, []
    for t in range(30):
        y, state = run(x[:, t : t + 1], state)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.c, final.c, rtol=0, atol=2e-6)
