"""Gradients in blocks of time, and truncated backpropagation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMConfig, init_params, lstm
from jaxlstm.training import lstm_in_blocks, truncated_step

CONFIGS = [LSTMConfig(3, 5, num_layers=2, batch_first=True), LSTMConfig(3, 5, proj_size=2)]


def drawn(config: LSTMConfig, time: int, batch: int = 4) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    axes = (batch, time) if config.batch_first else (time, batch)
    arrays = [(*axes, 3), *config.state_shapes(batch), (*axes, config.output_size)]
    x, h, c, target = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in arrays)
    params = {name: 2 * p for name, p in init_params(jax.random.key(0), config).items()}
    return params, x, (h, c), target


def squares(outputs: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.sum((outputs - target) ** 2)


@pytest.mark.parametrize(
    ("config", "block", "ragged"),
    [(CONFIGS[0], 7, True), (CONFIGS[1], None, False), (CONFIGS[1], 50, False)],
    ids=["stack-ragged", "projected", "one-block"],
)
def test_values_and_gradients_in_blocks(config: LSTMConfig, block: int | None, ragged: bool) -> None:
    params, x, state, target = drawn(config, 23)
    lengths = np.array([23, 1, 8, 14]) if ragged else None

    def whole(params: Any, x: Any, state: Any) -> Any:
        outputs, final = lstm(params, x, state, config=config, seq_lengths=lengths)
        return squares(outputs, target) + jnp.sum(final.c), (outputs, final)

    def blocks(params: Any, x: Any, state: Any) -> Any:
        outputs, final = lstm_in_blocks(params, x, state, config=config, block=block, seq_lengths=lengths)
        return squares(outputs, target) + jnp.sum(final.c), (outputs, final)

    def summed(params: Any, x: Any, state: Any) -> Any:
        total, final = lstm_in_blocks(
            params, x, state, config=config, block=block, seq_lengths=lengths, readout=squares, targets=target
        )
        return total + jnp.sum(final.c), final

    (value, expected), gradients = gradient(whole)(params, x, state)
    (value_b, found), gradients_b = gradient(blocks)(params, x, state)
    (value_s, final), gradients_s = gradient(summed)(params, x, state)
    assert_close((value, expected, gradients), (value_b, found, gradients_b))
    assert_close((value, expected[1], gradients), (value_s, final, gradients_s))


def gradient(function: Any) -> Any:
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2), has_aux=True))


def assert_close(expected: Any, found: Any) -> None:
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        scale = max(1.0, float(jnp.abs(a).max()))
        np.testing.assert_allclose(b, a, rtol=0, atol=3e-6 * scale)


@pytest.mark.slow
def test_memory_grows_with_the_square_root_of_time() -> None:
    """Compare the temporary memory of compiled training steps at two lengths."""
    config = LSTMConfig(4, 32)

    def peak(time: int, loss: Any) -> int:
        shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
        x = jax.ShapeDtypeStruct((time, 8, 4), np.float32)
        compiled = jax.jit(jax.grad(loss)).lower(shapes, x).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    def whole(params: Any, x: Any) -> jax.Array:
        return jnp.sum(lstm(params, x, config=config, backend="scan")[0] ** 2)

    def blocks(params: Any, x: Any) -> jax.Array:
        def readout(outputs: Any, _: Any) -> Any:
            return jnp.sum(outputs**2)

        return lstm_in_blocks(params, x, config=config, readout=readout, backend="scan")[0]

    short, long = 256, 64 * 256
    assert (long_whole := peak(long, whole)) > 40 * peak(short, whole)
    # Splitting the inputs into blocks may copy them once, which is a small linear term.
    copy = (long - short) * 8 * 4 * 4
    assert (long_blocks := peak(long, blocks)) - copy < 10 * peak(short, blocks)
    assert long_blocks < long_whole / 20


def test_truncated_step() -> None:
    config = CONFIGS[1]
    params, x, state, target = drawn(config, 20)
    step = jax.jit(partial(truncated_step, squares, config=config))
    first = step(params, state, x[:12], target[:12])
    second = step(params, first[2], x[12:], target[12:])
    _, final = lstm(params, x, state, config=config)
    assert_close(final, second[2])

    def window(params: Any, before: Any) -> jax.Array:
        _, middle = lstm(params, x[:12], state, config=config)
        middle = jax.tree.map(before, middle)
        return squares(lstm(params, x[12:], middle, config=config)[0], target[12:])

    value, expected = jax.value_and_grad(partial(window, before=jax.lax.stop_gradient))(params)
    assert_close((value, expected), second[:2])
    through = jax.grad(partial(window, before=lambda leaf: leaf))(params)
    assert np.abs(through["weight_hh_l0"] - expected["weight_hh_l0"]).max() > 1e-2


def test_errors() -> None:
    config = LSTMConfig(3, 5)
    params, x, _, _ = drawn(config, 4)
    both = LSTMConfig(3, 5, bidirectional=True)
    with pytest.raises(ValueError, match="requires a unidirectional LSTM, got bidirectional=True"):
        lstm_in_blocks({}, x, config=both)
    with pytest.raises(ValueError, match="block must be an int of at least 1"):
        lstm_in_blocks(params, x, config=config, block=0)
    longer = np.zeros((x.shape[0] + 1, x.shape[1]))
    with pytest.raises(ValueError, match="targets must have the first two axes of inputs"):
        lstm_in_blocks(params, x, config=config, readout=lambda y, t: (y[..., 0] - t).sum(), targets=longer)
    with pytest.raises(ValueError, match="at least one time step"):
        lstm_in_blocks(params, x[:0], config=config)
