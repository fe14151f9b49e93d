"""The Flax modules: construction, ``from_params``, transformations, and cells in Flax's RNN and scan."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxlstm
from jaxlstm import LSTMState, lstm, lstm_cell
from jaxlstm._shared.aligned import aligned_zeros

X = jax.random.normal(jax.random.key(0), (7, 4, 3))


def close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), actual, expected)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_parameter_names_and_distribution(kind: str) -> None:
    if kind == "nnx":
        params = jaxlstm.nnx.LSTM(3, 400, rngs=nnx.Rngs(0)).params
    else:
        params = jaxlstm.linen.LSTM(3, 400).init(jax.random.key(0), X)["params"]
    assert params.keys() == jaxlstm.param_shapes(jaxlstm.LSTMConfig(3, 400)).keys()
    weights = np.asarray(params["weight_hh_l0"])
    assert np.abs(weights).max() < 0.05
    np.testing.assert_allclose(weights.std(), 0.05 / 3**0.5, rtol=0.01)


def test_linen_in_scan_and_remat() -> None:
    """``nn.scan`` over chunks of time equals one call; ``nn.remat`` does not change gradients."""
    model = jaxlstm.linen.LSTM(3, 5)
    variables = model.init(jax.random.key(0), X)

    class Chunks(nn.Module):
        @nn.compact
        def __call__(self, state: Any, x: Any) -> Any:
            y, state = jaxlstm.linen.LSTM(3, 5, name="lstm")(x, state)
            return state, y

    scanned = nn.scan(Chunks, variable_broadcast="params", split_rngs={"params": False})()
    zeros = LSTMState(jnp.zeros((1, 4, 5)), jnp.zeros((1, 4, 5)))
    nested = {"params": {"lstm": variables["params"]}}
    y: Any
    state, y = scanned.apply(nested, zeros, X[:6].reshape(3, 2, 4, 3))
    expected, final = model.apply(variables, X[:6])
    close((y.reshape(6, 4, 5), state), (expected, final))

    def gradient(module: nn.Module) -> Any:
        return jax.grad(lambda v: (module.apply(v, X)[0] ** 2).sum())(variables)

    close(gradient(nn.remat(jaxlstm.linen.LSTM)(3, 5)), gradient(model))


def test_cells_accept_both_calls() -> None:
    cell = jaxlstm.nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    h, c = jnp.full((4, 5), 0.1), jnp.full((4, 5), -0.3)
    expected = lstm_cell(cell.params, X[0], LSTMState(h, c))
    linen_cell = jaxlstm.linen.LSTMCell(3, 5)

    def linen(*arguments: Any) -> Any:
        return linen_cell.apply({"params": cell.params}, *arguments)

    for call in (cell, linen):
        close(call(X[0], (h, c)), tuple(expected))
        close(call(X[0], LSTMState(h, c)), expected)
        (c_next, h_next), y = call((c, h), X[0])
        close((h_next, c_next, y), (*expected, expected.h))
        close(call(LSTMState(h, c), X[0]), (expected, expected.h))
        close(call(X[0]), lstm_cell(cell.params, X[0]))


def test_cells_in_rnn() -> None:
    cell = jaxlstm.nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    expected, final = lstm(cell.params, X, config=cell.config)
    (c, h), y = nnx.RNN(cell, time_major=True, return_carry=True)(X)
    close((y, h, c), (expected, final.h[0], final.c[0]))
    carry = (jnp.full((4, 5), -0.3), jnp.full((4, 5), 0.1))
    (c, h), y = nnx.RNN(cell, time_major=True, return_carry=True)(X, initial_carry=carry)
    started, _ = lstm(cell.params, X, (carry[1][None], carry[0][None]), config=cell.config)
    close(y, started)

    rnn = nn.RNN(jaxlstm.linen.LSTMCell(3, 5), time_major=True, return_carry=True)
    (name,) = rnn.init(jax.random.key(0), X)["params"]
    (c, h), y = rnn.apply({"params": {name: cell.params}}, X)
    close((y, h, c), (expected, final.h[0], final.c[0]))


def test_nnx_carry_init() -> None:
    cell = jaxlstm.nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    c, h = cell.initialize_carry((4, 3), nnx.Rngs(carry=1), jax.nn.initializers.normal())
    assert c.shape == h.shape == (4, 5)
    assert np.abs(c - h).min() > 0
    with pytest.raises(ValueError, match="rngs must be given"):
        cell.initialize_carry((4, 3), None, jax.nn.initializers.normal())


MODULES = [jaxlstm.nnx.LSTM, jaxlstm.linen.LSTM]
CELLS = [jaxlstm.nnx.LSTMCell, jaxlstm.linen.LSTMCell]
CELL_CONFIG = jaxlstm.LSTMCellConfig(3, 5)


def cell_params(dtype: Any = jnp.float32) -> Any:
    return jaxlstm.init_params(jax.random.key(0), CELL_CONFIG, dtype=dtype)


@pytest.mark.parametrize("module", MODULES)
def test_from_params(module: Any) -> None:
    config = jaxlstm.LSTMConfig(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    params = jaxlstm.init_params(jax.random.key(0), config)
    model = module.from_params(params, config)
    assert model.config == config
    close(model(X), lstm(params, X, config=config))
    close(module.from_params(cell_params(), CELL_CONFIG)(X), lstm(cell_params(), X, config=CELL_CONFIG))
    with pytest.raises(ValueError, match="missing weight_hh_l0_reverse"):
        module.from_params({name: p for name, p in params.items() if name[-7:] != "reverse"}, config)


@pytest.mark.parametrize("module", MODULES)
def test_from_params_copies_numpy_arrays(module: Any) -> None:
    """Older versions of JAX share memory with aligned arrays."""
    config = jaxlstm.LSTMConfig(16, 16)
    params = {
        name: aligned_zeros(shape, np.dtype(np.float32))
        for name, shape in jaxlstm.param_shapes(config).items()
    }
    model = module.from_params(params, config)
    for leaf in params.values():
        leaf[...] = 1
    assert not any(np.any(leaf) for leaf in model.params.values())


@pytest.mark.parametrize("cell_type", CELLS)
def test_cell_from_params(cell_type: Any) -> None:
    close(cell_type.from_params(cell_params(), CELL_CONFIG)(X[0]), lstm_cell(cell_params(), X[0]))
    with pytest.raises(ValueError, match="missing weight_hh"):
        cell_type.from_params({}, CELL_CONFIG)


@pytest.mark.parametrize("module", [*MODULES, *CELLS])
def test_from_params_keeps_the_dtype(module: Any) -> None:
    with jax.enable_x64(True):
        model = module.from_params(cell_params(jnp.float64), CELL_CONFIG)
        assert model.param_dtype == jnp.float64
        assert jax.tree.leaves(model(X[0]))[0].dtype == jnp.float64
    assert module.from_params(cell_params(jnp.bfloat16), CELL_CONFIG).param_dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", [tuple, list, LSTMState._make])
def test_cells_return_the_type_of_state_they_are_given(kind: Any) -> None:
    state = kind([jnp.zeros((4, 5)), jnp.zeros((4, 5))])
    assert type(lstm_cell(cell_params(), X[0], state)) is type(state)
    for cell_type in CELLS:
        cell = cell_type.from_params(cell_params(), CELL_CONFIG)
        assert type(cell(X[0], state)) is type(state)
        assert type(cell(state, X[0])[0]) is type(state)
        assert type(cell(X[0])) is LSTMState


@pytest.mark.parametrize("kind", [tuple, LSTMState._make])
def test_cells_in_lax_scan_and_nnx_scan(kind: Any) -> None:
    params, state = cell_params(), kind([jnp.zeros((4, 5)), jnp.zeros((4, 5))])
    expected, final = lstm(params, X, config=CELL_CONFIG)

    def step(state: Any, x: Any) -> Any:
        state = lstm_cell(params, x, state)
        return state, state[0]

    carry, outputs = jax.lax.scan(step, state, X)
    close((outputs, *carry), (expected, final.h[0], final.c[0]))

    cell = jaxlstm.nnx.LSTMCell.from_params(params, CELL_CONFIG)

    @nnx.scan(in_axes=(nnx.StateAxes({...: None}), nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def scan(cell: Any, state: Any, x: Any) -> Any:
        state = cell(x, state)
        return state, state[0]

    carry, outputs = scan(cell, state, X)
    close((outputs, *carry), (expected, final.h[0], final.c[0]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtype_and_param_dtype(dtype: Any) -> None:
    config = jaxlstm.LSTMConfig(3, 5)
    stored = jaxlstm.nnx.LSTM(3, 5, rngs=nnx.Rngs(0), param_dtype=dtype)
    assert all(p.dtype == dtype for p in stored.params.values())
    assert stored(X)[0].dtype == jnp.float32  # the widest of inputs and parameters
    assert stored(X.astype(dtype))[0].dtype == dtype
    computed = jaxlstm.nnx.LSTM.from_params(
        jaxlstm.init_params(jax.random.key(0), config), config, dtype=dtype
    )
    cast = {name: p.astype(dtype) for name, p in computed.params.items()}
    expected = lstm(cast, X.astype(dtype), config=config)[0]
    y, state = computed(X)
    assert y.dtype == state.c.dtype == dtype
    np.testing.assert_array_equal(y, expected)
    linen = jaxlstm.linen.LSTM(3, 5, dtype=dtype).apply({"params": computed.params}, X)[0]
    np.testing.assert_array_equal(linen, expected)


def test_load_params() -> None:
    """A call that was jitted before sees the new parameters."""
    model = jaxlstm.nnx.LSTM(3, 5, rngs=nnx.Rngs(0))
    run = nnx.jit(lambda model, x: model(x)[0])
    run(model, X)
    other = jaxlstm.init_params(jax.random.key(1), model.config)
    close(model.load_params(other).params, other)
    close(run(model, X), lstm(other, X, config=model.config)[0])
    with pytest.raises(ValueError, match="missing weight_hh_l0"):
        model.load_params({"weight_ih_l0": other["weight_ih_l0"]})


CONVOLUTIONS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "depthwise": ({"strides": (2, 1), "padding": 1, "feature_group_count": 6}, (2, 9, 8, 6)),
    "SAME": ({"strides": 2, "feature_group_count": 6, "kernel_dilation": 2}, (9, 8, 6)),
    "few groups": ({"padding": "CIRCULAR", "feature_group_count": 2}, (2, 3, 9, 8, 6)),
    "one group": ({"padding": "VALID", "use_bias": False}, (2, 9, 8, 6)),
    "dilated input": ({"padding": 1, "feature_group_count": 6, "input_dilation": 2}, (2, 9, 8, 6)),
}


@pytest.mark.quick("depthwise", "SAME", "dilated input")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_equals_flax(name: str) -> None:
    settings, shape = CONVOLUTIONS[name]
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), shape, jnp.float64)

        def run(kind: Any) -> Any:
            model = kind(6, 12, (3, 2), param_dtype=jnp.float64, **settings, rngs=nnx.Rngs(0))
            graph, state = nnx.split(model)

            @jax.jit
            def values_and_gradients(state: Any, x: Any) -> Any:
                y, pull = jax.vjp(lambda state, x: nnx.merge(graph, state)(x), state, x)
                return y, *jax.tree.leaves(pull(jnp.cos(y)))

            return values_and_gradients(state, x)

        ours, theirs = run(jaxlstm.nnx.Conv), run(nnx.Conv)
        assert [array.dtype for array in ours] == [jnp.float64] * len(theirs)
        for actual, expected in zip(ours, theirs, strict=True):
            scale = 1e3 * float(jnp.finfo(jnp.float64).eps)
            np.testing.assert_allclose(actual, expected, rtol=scale, atol=scale * np.abs(expected).max())
