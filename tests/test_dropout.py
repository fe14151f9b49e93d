"""Dropout between layers: torch's semantics, from an explicit key or from Flax's rngs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm import LSTMConfig, init_params, lstm
from jaxlstm.stack import dropout

CONFIG = LSTMConfig(3, 64, num_layers=2, dropout=0.4)
PARAMS = init_params(jax.random.key(0), CONFIG)
X = jax.random.normal(jax.random.key(1), (11, 8, 3))


def test_masks_scale_and_drop_at_the_rate() -> None:
    kept = np.asarray(dropout(jax.random.key(2), jnp.ones(100_000), 0.4))
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.6], rtol=1e-6)
    assert (
        abs((kept == 0).mean() - 0.4) < 4 * (0.4 * 0.6 / kept.size) ** 0.5
    )  # four standard deviations


def test_it_acts_on_the_outputs_of_all_layers_but_the_last() -> None:
    """Written out with two one-layer LSTMs and the mask between them."""
    key = jax.random.key(3)
    single = LSTMConfig(3, 64)
    below = {name: p for name, p in PARAMS.items() if name.endswith("_l0")}
    above = {name.replace("_l1", "_l0"): p for name, p in PARAMS.items() if name.endswith("_l1")}
    middle, first = lstm(below, X, config=single)
    dropped = dropout(jax.random.fold_in(key, 0), middle, 0.4)
    wanted, second = lstm(above, dropped, config=LSTMConfig(64, 64))
    outputs, (h_n, _) = lstm(PARAMS, X, config=CONFIG, dropout_key=key)
    np.testing.assert_allclose(outputs, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(h_n, jnp.stack([first.h[0], second.h[0]]), rtol=0, atol=1e-6)


def test_no_key_is_inference_and_one_key_is_one_mask() -> None:
    still = LSTMConfig(3, 64, num_layers=2)
    plain = lstm(PARAMS, X, config=CONFIG)[0]
    np.testing.assert_array_equal(plain, lstm(PARAMS, X, config=still)[0])
    a, again, b = (
        lstm(PARAMS, X, config=CONFIG, dropout_key=jax.random.key(k))[0] for k in (3, 3, 4)
    )
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 0.01


def test_dropout_one_is_torchs() -> None:
    """The one rate above zero whose masks can match across frameworks."""
    module = torch.nn.LSTM(3, 5, num_layers=3, dropout=1.0).train()
    params, config = jaxlstm.from_torch(module)
    assert config.dropout == 1.0
    wanted = module(torch.tensor(np.asarray(X)))[0].detach().numpy()
    outputs = lstm(params, X, config=config, dropout_key=jax.random.key(0))[0]
    np.testing.assert_allclose(outputs, wanted, rtol=0, atol=3e-7)


def test_gradients_are_finite_and_zero_through_dropped_elements() -> None:
    gradient = jax.grad(lambda x: dropout(jax.random.key(5), x, 0.4).sum())(jnp.ones(1000))
    mask = dropout(jax.random.key(5), jnp.ones(1000), 0.4)
    np.testing.assert_array_equal(gradient, mask)


def test_nnx_follows_train_and_eval() -> None:
    model = jaxlstm.nnx.LSTM(3, 64, num_layers=2, dropout=0.4, rngs=nnx.Rngs(0, dropout=1))
    with pytest.raises(ValueError, match="deterministic must be True"):
        model(X)
    call = nnx.jit(lambda model, x: model(x)[0])
    model.eval()
    np.testing.assert_array_equal(call(model, X), call(model, X))
    model.train()
    first, second = call(model, X), call(model, X)
    assert np.abs(first - second).max() > 0.01  # the stream moved on
    np.testing.assert_array_equal(
        model(X, deterministic=True)[0], jaxlstm.lstm(model.params, X, config=model.config)[0]
    )
    given = [model(X, rngs=jax.random.key(7))[0] for _ in range(2)]
    np.testing.assert_array_equal(given[0], given[1])
    np.testing.assert_array_equal(
        given[0], lstm(model.params, X, config=model.config, dropout_key=jax.random.key(7))[0]
    )


def test_nnx_without_a_stream_says_so() -> None:
    model = jaxlstm.nnx.LSTM.from_params(PARAMS, CONFIG, deterministic=False)
    assert np.isfinite(model(X)[0]).all()  # from_params gave it a stream
    model.rngs = nnx.data(None)
    with pytest.raises(ValueError, match="rngs must be given"):
        model(X)


def test_linen_needs_an_rng_named_dropout_only_in_training() -> None:
    model = jaxlstm.linen.LSTM(3, 64, num_layers=2, dropout=0.4)
    variables = {"params": PARAMS}
    with pytest.raises(ValueError, match="deterministic must be True"):
        model.apply(variables, X)
    np.testing.assert_array_equal(
        model.apply(variables, X, deterministic=True)[0], lstm(PARAMS, X, config=CONFIG)[0]
    )
    outputs = [
        model.apply(variables, X, deterministic=False, rngs={"dropout": jax.random.key(k)})[0]
        for k in (1, 1, 2)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 0.01
