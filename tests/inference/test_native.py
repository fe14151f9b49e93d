"""A Runner on the native kernel, compared bit for bit with ``lstm`` on that kernel."""

import functools
import gc
import itertools
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMCellConfig, LSTMConfig, lstm
from jaxlstm.inference import Runner, compile
from jaxlstm.inference.host_arrays import time_major
from testing.inference import normal, weights
from testing.problems import needs_native

pytestmark = needs_native

CONFIGS = {
    "stack": LSTMConfig(7, 40, num_layers=2),
    "both": LSTMConfig(7, 33, num_layers=2, bidirectional=True, bias=False),
    "projected": LSTMConfig(5, 20, proj_size=9, bidirectional=True),
    "cell": LSTMCellConfig(5, 12),
}
# AMX multiplies 30 rows, but not 9 or 17, although it would multiply full buckets of 16 and 32.
SHAPES = [(1, 40), (3, 17), (7, 70), (9, 20), (17, 9), (30, 33)]
QUICK = {
    "stack": [(1, 40), (9, 20), (30, 33)],
    "both": [(3, 17), (17, 9), (30, 33)],
    "projected": [(1, 40), (7, 70), (17, 9)],
    "cell": [(3, 17), (9, 20)],
}


@functools.cache
def runner_of(name: str) -> Runner:
    return compile(weights(CONFIGS[name]), CONFIGS[name], max_length=100, max_batch=32)


@functools.partial(jax.jit, static_argnames="config")
def by_lstm(params: Any, x: Any, state: Any, lengths: Any, config: LSTMConfig) -> Any:
    """Run ``lstm`` without padding."""
    y, (h, c) = lstm(params, x, state, config=time_major(config), seq_lengths=lengths, backend="native")
    return y, h, c


def assert_same_bits(runner: Runner, expected: Any, *arguments: Any) -> None:
    outputs, state = runner(*arguments)
    jax.tree.map(np.testing.assert_array_equal, (outputs, *state), tuple(expected))


@pytest.mark.parametrize(
    ("name", "batch", "time"),
    [
        pytest.param(name, *shape, marks=[] if shape in QUICK[name] else pytest.mark.slow)
        for name, shape in itertools.product(CONFIGS, SHAPES)
    ],
)
def test_bits_do_not_depend_on_the_bucket(name: str, batch: int, time: int) -> None:
    config, runner = CONFIGS[name], runner_of(name)
    params = weights(config)
    x = normal(time, batch, config.input_size)
    state = tuple(normal(*shape, seed=1) for shape in config.state_shapes(batch))
    lengths = np.random.default_rng(0).integers(1, time + 1, batch)
    assert_same_bits(runner, by_lstm(params, x, state, lengths, config), x, state, lengths)
    assert_same_bits(runner, by_lstm(params, x, state, np.full(batch, time), config), x, state)


@pytest.mark.parametrize("batch", [3, 32])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_of_saturated_gates(dtype: str, batch: int) -> None:
    """Sigmoids below 2^-126 are zeros, on XLA's threads and on Python's."""
    config = LSTMConfig(40, 130)
    params = {key: jnp.asarray(value, dtype) for key, value in weights(config).items()}
    x = (1000 * normal(20, batch, config.input_size)).astype(dtype)
    state = tuple(np.full(shape, 1e-39, dtype) for shape in config.state_shapes(batch))
    runner = compile(params, config, max_length=20, max_batch=batch, dtype=dtype)
    assert_same_bits(runner, by_lstm(params, x, state, np.full(batch, 20), config), x, state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["both", "projected"])
def test_padding_does_not_matter(name: str, dtype: str) -> None:
    """Padding may hold NaN, also in a batch that is large enough for AMX."""
    config = CONFIGS[name]
    params = {key: jnp.asarray(value, dtype) for key, value in weights(config).items()}
    runner = compile(params, config, max_length=40, max_batch=16, dtype=dtype)
    lengths = np.array([40, 3, 1, *range(13, 39, 2)])
    x = normal(40, 16, config.input_size).astype(dtype)
    padding = np.arange(40)[:, None, None] >= lengths[:, None]
    outputs, state = runner(np.where(padding, np.zeros((), dtype), x), None, lengths)
    assert np.isfinite(outputs.astype(np.float32)).all()
    for value in (np.nan, 3e38):
        padded = np.where(padding, np.full((), value, dtype), x)
        assert_same_bits(runner, (outputs, *state), padded, None, lengths)


def test_float64() -> None:
    with jax.enable_x64(True):
        config = CONFIGS["stack"]
        params = weights(config, np.float64)
        runner = compile(params, config, max_length=32, max_batch=4)
        x = normal(20, 3, 7, dtype=np.float64)
        state = tuple(normal(*shape, seed=1, dtype=np.float64) for shape in config.state_shapes(3))
        lengths = np.array([5, 20, 1])
        expected = by_lstm(params, x, state, lengths, config)
        assert_same_bits(runner, expected, x, state, lengths)
    # The kernel needs JAX's 64-bit mode only for the weights.
    assert_same_bits(runner, expected, x, state, lengths)


def test_weights_are_stored_once() -> None:
    """A Runner stores packed weights, with one bias instead of two, and does not keep the given ones."""
    config = LSTMConfig(48, 64, num_layers=2, bidirectional=True)
    params = weights(config)
    given = [weakref.ref(leaf) for leaf in params.values()]
    size = sum(leaf.nbytes for leaf in params.values())
    runner = compile(params, config, max_length=32, max_batch=4)
    assert runner(normal(20, 3, 48))[0].any()
    packed = [array for layer in runner._engine.layers.prepared for array in layer]  # type: ignore[attr-defined]
    assert size * 0.9 < sum(array.nbytes for array in packed) < size
    del params
    gc.collect()
    assert not any(leaf() is not None for leaf in given)


def test_results_are_new_arrays() -> None:
    """The caller may change results and inputs after a call."""
    runner = runner_of("both")
    x = normal(20, 3, 7)
    outputs, state = runner(x)
    expected = [array.copy() for array in (outputs, *state)]
    for array in (outputs, *state):
        array[...] = np.nan
    assert_same_bits(runner, expected, x)
