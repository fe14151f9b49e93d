"""The expected values of Keras's LSTM tests (keras/src/layers/rnn/lstm_test.py, Apache-2.0).

Keras has one bias and sets its forget gate to 1. The weights are constant: 0.01 for the input
kernel, 0.02 for the recurrent kernel, 0.03 for the bias. ``go_backwards`` corresponds to our
reverse direction. Keras tests with a tolerance of 1e-5; the values have seven digits and we test
with 1e-6.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMConfig, lstm

jitted_lstm = jax.jit(lstm, static_argnames="config")


def ascending(*shape: int) -> jax.Array:
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


def keras_lstm(features: int, units: int, *, forget_bias: float = 1.0, bias: bool = True) -> Any:
    """Return parameters and config of a bidirectional layer, both directions with Keras's weights."""
    config = LSTMConfig(features, units, bias=bias, batch_first=True, bidirectional=True)
    one_direction = {
        "weight_ih": jnp.full((4 * units, features), 0.01),
        "weight_hh": jnp.full((4 * units, units), 0.02),
    }
    if bias:
        by_gate = jnp.repeat(jnp.array([0.03, forget_bias, 0.03, 0.03]), units)
        one_direction |= {"bias_ih": by_gate, "bias_hh": jnp.zeros_like(by_gate)}
    ends = ("_l0", "_l0_reverse")
    return {name + end: leaf for name, leaf in one_direction.items() for end in ends}, config


def equal_units(rows: list[float], units: int) -> np.ndarray:
    """Repeat each value for every unit: with constant kernels and no initial state all units are equal."""
    return np.repeat(np.array(rows)[:, None], units, axis=1)


def assert_golden(actual: Any, golden: Any) -> None:
    np.testing.assert_allclose(actual, golden, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "direction", "golden"),
    [
        ({}, 0, [0.6288687, 0.86899155, 0.9460773]),
        ({}, 1, [0.35622165, 0.74789524, 0.8872726]),
        ({"forget_bias": 0.03}, 0, [0.57019705, 0.8661914, 0.9459622]),
        ({"bias": False}, 0, [0.54986924, 0.86226785, 0.9443936]),
    ],
    ids=["forwards", "backwards", "no_unit_forget_bias", "no_bias"],
)
def test_correctness(options: dict, direction: int, golden: list[float]) -> None:
    params, config = keras_lstm(4, 3, **options)
    _, (h_n, _) = jitted_lstm(params, ascending(3, 6, 4), config=config)
    assert_golden(h_n[direction], equal_units(golden, 3))


def test_statefulness() -> None:
    """The final state of one call is the initial state of the next."""
    params, config = keras_lstm(4, 4)
    sequence = ascending(2, 3, 4)
    _, state = jitted_lstm(params, sequence, config=config)
    _, (h_n, _) = jitted_lstm(params, sequence, state, config=config)
    assert_golden(h_n[0], equal_units([0.3124785, 0.6863672], 4))


def test_initial_state() -> None:
    params, config = keras_lstm(3, 2)
    state = jnp.broadcast_to(ascending(2, 2), (2, 2, 2))  # the same for both directions
    _, (h_n, _) = jitted_lstm(params, ascending(2, 4, 3), (state, state), config=config)
    forwards, backwards = h_n
    assert_golden(forwards, [[0.20574439, 0.3558822], [0.64930826, 0.66276]])
    assert_golden(backwards, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]])


def test_masking() -> None:
    """A Keras mask at the end of a sequence, with ``zero_output_for_mask``, equals our ``seq_lengths``."""
    params, config = keras_lstm(3, 2)
    outputs, (h_n, _) = jitted_lstm(params, ascending(2, 4, 3), config=config, seq_lengths=jnp.array([3, 2]))
    forwards = outputs[..., :2]
    golden = [[0.01588910, 0.05552048, 0.11755939, 0.0], [0.14185596, 0.28556206, 0.0, 0.0]]
    for row, steps in zip(forwards, golden, strict=True):
        assert_golden(row, equal_units(steps, 2))
    assert_golden(h_n[0], equal_units([0.11755939, 0.28556206], 2))


def test_masking_backwards() -> None:
    """Keras masks the start of the sequence here; ours has the valid steps first."""
    params, config = keras_lstm(3, 2)
    sequence, lengths = ascending(2, 4, 3), jnp.array([3, 2])
    valid_first = jnp.stack([jnp.roll(row, n - 4, axis=0) for row, n in zip(sequence, lengths, strict=True)])
    _, (h_n, _) = jitted_lstm(params, valid_first, config=config, seq_lengths=lengths)
    assert_golden(h_n[1], equal_units([0.15341201, 0.3844719], 2))
