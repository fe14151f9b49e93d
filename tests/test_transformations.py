"""``lstm`` under jit, grad, vmap and sharding. `tests/kernels` has vmap over weights, remat and scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlstm import LSTMConfig, LSTMState, init_params, lstm, lstm_cell

CONFIG = LSTMConfig(3, 8, num_layers=2, bidirectional=True, proj_size=4)
PARAMS = init_params(jax.random.key(0), CONFIG)
X = jax.random.normal(jax.random.key(1), (6, 5, 3))
LENGTHS = jnp.array([3, 6, 1, 6, 4])


def outputs(params, x, lengths=None):
    return lstm(params, x, config=CONFIG, seq_lengths=lengths)[0]


run = jax.jit(outputs)


def close(actual, expected) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), actual, expected)


def test_vmap_over_single_sequences() -> None:
    close(jax.jit(jax.vmap(outputs, (None, 1, 0), 1))(PARAMS, X, LENGTHS), run(PARAMS, X, LENGTHS))


def test_second_derivatives_and_forward_mode() -> None:
    def loss(scale):
        return (outputs(PARAMS, scale * X) ** 2).sum()

    step = 1e-2
    slope = jax.jit(jax.grad(loss))
    finite = (slope(1.0 + step) - slope(1.0 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(slope))(1.0), finite, rtol=2e-3)
    forward = jax.jit(lambda x: jax.jvp(loss, (x,), (1.0,))[1])(1.0)
    np.testing.assert_allclose(forward, slope(1.0), rtol=1e-5)


def test_cell_steps_equal_the_layer() -> None:
    config = LSTMConfig(3, 8, proj_size=4)
    params = init_params(jax.random.key(5), config)
    cell = {name.removesuffix("_l0"): p for name, p in params.items()}
    state, steps = LSTMState(jnp.zeros((5, 4)), jnp.zeros((5, 8))), []
    for x in X:
        state = lstm_cell(cell, x, state)
        steps.append(state.h)
    expected, final = lstm(params, X, config=config)
    close((jnp.stack(steps), state.c), (expected, final.c[0]))


@pytest.mark.parametrize("gradient", [False, True])
def test_program_size_does_not_depend_on_time(gradient: bool) -> None:
    def lines(time: int) -> int:
        def loss(params, x):
            return outputs(params, x, LENGTHS).sum()

        run = jax.grad(loss) if gradient else outputs
        return len(jax.jit(run).lower(PARAMS, jnp.ones((time, 5, 3))).as_text().splitlines())

    assert lines(8) == lines(4096)


def test_rows_and_padding_are_independent() -> None:
    whole = run(PARAMS, X, LENGTHS)
    poisoned = jnp.where(jnp.arange(6)[:, None, None] < LENGTHS[:, None], X, jnp.nan)
    np.testing.assert_array_equal(run(PARAMS, poisoned, LENGTHS), whole)
    gradient = jax.grad(lambda p: run(p, poisoned, LENGTHS).sum())(PARAMS)
    assert all(np.isfinite(g).all() for g in gradient.values())
    sick = run(PARAMS, X.at[0, 1].set(jnp.nan), LENGTHS)
    assert np.isnan(sick[:, 1]).any()
    np.testing.assert_array_equal(np.delete(sick, 1, axis=1), np.delete(whole, 1, axis=1))


def test_traced_lengths_are_clamped() -> None:
    state = LSTMState(jnp.full((4, 2, 4), 0.3), jnp.full((4, 2, 8), 0.2))
    run = jax.jit(lambda n: lstm(PARAMS, X[:, :2], state, config=CONFIG, seq_lengths=n))
    y, final = run(jnp.array([0, 99]))
    np.testing.assert_array_equal(y[:, 0], 0)
    np.testing.assert_array_equal(final.h[:, 0], state.h[:, 0])
    whole, whole_final = run(jnp.array([6, 6]))
    close((y[:, 1], final.c[:, 1]), (whole[:, 1], whole_final.c[:, 1]))


@pytest.mark.parametrize("split_argument", ["inputs", "state", "lengths"])
def test_explicit_sharding_of_the_batch(split_argument: str) -> None:
    """On a mesh with explicit axes, all results are split if one argument is."""
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Explicit,))
    specs = {"inputs": P(None, "rows"), "state": P(None, "rows"), "lengths": P("rows")}

    def put(name: str, value):
        spec = specs[name] if name == split_argument else P()
        return jax.device_put(value, NamedSharding(mesh, spec))

    state = LSTMState(*(jnp.zeros(shape) for shape in CONFIG.state_shapes(5)))
    run = jax.jit(lambda x, s, n: lstm(PARAMS, x, s, config=CONFIG, seq_lengths=n))
    with jax.set_mesh(mesh):
        results = run(put("inputs", X), put("state", state), put("lengths", LENGTHS))
    for leaf in jax.tree.leaves(results):
        assert jax.typeof(leaf).sharding.spec == P(None, "rows", None)
