"""Dropout between layers, with an explicit key and with Flax's rngs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm import LSTMConfig, init_params, lstm
from jaxlstm.layer.stack import dropout

CONFIG = LSTMConfig(3, 64, num_layers=2, dropout=0.4)
PARAMS = init_params(jax.random.key(0), CONFIG)
X = jax.random.normal(jax.random.key(1), (11, 8, 3))


def test_mask_rate_and_scale() -> None:
    kept = np.asarray(dropout(jax.random.key(2), jnp.ones(100_000), 0.4))
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.6], rtol=1e-6)
    standard_deviation = (0.4 * 0.6 / kept.size) ** 0.5
    assert abs((kept == 0).mean() - 0.4) < 4 * standard_deviation


def test_dropout_is_between_layers() -> None:
    """Two LSTMs of one layer with dropout between them give the same results."""
    key = jax.random.key(3)
    single = LSTMConfig(3, 64)
    below = {name: p for name, p in PARAMS.items() if name.endswith("_l0")}
    above = {name.replace("_l1", "_l0"): p for name, p in PARAMS.items() if name.endswith("_l1")}
    middle, first = lstm(below, X, config=single)
    dropped = dropout(jax.random.fold_in(key, 0), middle, 0.4)
    expected, second = lstm(above, dropped, config=LSTMConfig(64, 64))
    outputs, (h_n, _) = lstm(PARAMS, X, config=CONFIG, dropout_key=key)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(h_n, jnp.stack([first.h[0], second.h[0]]), rtol=0, atol=1e-6)


def test_keys_determine_masks() -> None:
    still = LSTMConfig(3, 64, num_layers=2)
    plain = lstm(PARAMS, X, config=CONFIG)[0]
    np.testing.assert_array_equal(plain, lstm(PARAMS, X, config=still)[0])
    a, again, b = (lstm(PARAMS, X, config=CONFIG, dropout_key=jax.random.key(k))[0] for k in (3, 3, 4))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 0.01


def test_rate_of_one_against_torch() -> None:
    """A rate of 1 is the only positive rate whose masks do not depend on random numbers."""
    module = torch.nn.LSTM(3, 5, num_layers=3, dropout=1.0).train()
    params, config = jaxlstm.from_torch(module)
    assert config.dropout == 1.0
    expected = module(torch.tensor(np.asarray(X)))[0].detach().numpy()
    outputs = lstm(params, X, config=config, dropout_key=jax.random.key(0))[0]
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=3e-7)


def test_gradient_of_dropout() -> None:
    gradient = jax.grad(lambda x: dropout(jax.random.key(5), x, 0.4).sum())(jnp.ones(1000))
    mask = dropout(jax.random.key(5), jnp.ones(1000), 0.4)
    np.testing.assert_array_equal(gradient, mask)


def test_nnx_train_and_eval() -> None:
    model = jaxlstm.nnx.LSTM(3, 64, num_layers=2, dropout=0.4, rngs=nnx.Rngs(0, dropout=1))
    with pytest.raises(ValueError, match="deterministic must be True"):
        model(X)
    call = nnx.jit(lambda model, x: model(x)[0])
    model.eval()
    np.testing.assert_array_equal(call(model, X), call(model, X))
    model.train()
    first, second = call(model, X), call(model, X)
    assert np.abs(first - second).max() > 0.01  # each call draws a new mask
    np.testing.assert_array_equal(
        model(X, deterministic=True)[0], jaxlstm.lstm(model.params, X, config=model.config)[0]
    )
    given = [model(X, rngs=jax.random.key(7))[0] for _ in range(2)]
    np.testing.assert_array_equal(given[0], given[1])
    np.testing.assert_array_equal(
        given[0], lstm(model.params, X, config=model.config, dropout_key=jax.random.key(7))[0]
    )


def test_nnx_without_dropout_stream() -> None:
    model = jaxlstm.nnx.LSTM.from_params(PARAMS, CONFIG, deterministic=False)
    assert np.isfinite(model(X)[0]).all()  # with the default stream of from_params
    model.rngs = nnx.data(None)
    with pytest.raises(ValueError, match=r"rngs must be an nnx.Rngs with a dropout stream .* got None"):
        model(X)


def test_linen_dropout_rng() -> None:
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
