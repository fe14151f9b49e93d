"""The checker in another project's test file: a handwritten LSTM in JAX, and two tests of it.

    pip install '.[torch]' pytest
    pytest examples/test_my_port.py

The fixture ``jaxlstm_verify`` is installed with jaxlstm. ``MY_BUG=1`` introduces the most common mistake of
ports, to show a failure.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm.check import compare

CONFIG = jaxlstm.LSTMConfig(input_size=8, hidden_size=12)


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """Weights under torch's names. A real project would use ``jaxlstm.load("model.pt")``."""
    rng = np.random.default_rng(0)
    shapes = jaxlstm.param_shapes(CONFIG)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


# The project's own code.


def my_params(weights: Any) -> dict[str, Any]:
    return {
        "kernel": jnp.concatenate([weights["weight_ih_l0"], weights["weight_hh_l0"]], axis=1).T,
        "bias": weights["bias_ih_l0"] + weights["bias_hh_l0"],
    }


def my_lstm(p: dict[str, Any], xs: Any, h: Any, c: Any) -> Any:
    def step(state: Any, x: Any) -> Any:
        h, c = state
        z = jnp.concatenate([x, h], axis=-1) @ p["kernel"] + p["bias"]
        i, f, g, o = jnp.split(z, 4, axis=-1)
        if os.environ.get("MY_BUG"):
            g, o = o, g
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(step, (h, c), xs)


# Its tests.


@jax.jit
def port(inputs: Any, initial_state: Any, *, params: Any) -> Any:
    """Adapt my layer to the checker: time-major inputs, states of shape (1, batch, hidden_size)."""
    (h_0,), (c_0,) = initial_state
    (h, c), outputs = my_lstm(my_params(params), inputs, h_0, c_0)
    return outputs, (h[None], c[None])


def test_my_lstm_equals_torch(jaxlstm_verify: Any, weights: Any) -> None:
    jaxlstm_verify(port, weights, CONFIG)


def test_two_halves_equal_the_whole(weights: Any) -> None:
    """``compare`` compares trees leaf by leaf."""
    p, h = my_params(weights), jnp.zeros((3, CONFIG.hidden_size))
    xs = jax.random.normal(jax.random.key(0), (10, 3, CONFIG.input_size))
    state, first = my_lstm(p, xs[:5], h, h)
    state, second = my_lstm(p, xs[5:], *state)
    compare((state, jnp.concatenate([first, second])), my_lstm(p, xs, h, h)).raise_if_failed()
