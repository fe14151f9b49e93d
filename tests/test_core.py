"""``lstm`` and the Flax modules against torch: the table of cases, cells, dropout, printed numbers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm import LSTMConfig, init_params, lstm, lstm_cell
from jaxlstm.layer.activations import sigmoid, tanh
from jaxlstm.layer.stack import dropout
from testing.cases import CASES, FEW, FEWER, Case, Forward, check, functional, linen_module, nnx_module


def on(cases: list[Case]) -> pytest.MarkDecorator:
    """Run a test on these cases, and on the rest of the table with the slow tests."""
    rows = [case if case in cases else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
    return pytest.mark.parametrize("case", rows, ids=str)


@on(FEW)
def test_float64(case: Case) -> None:
    check(case, np.float64, functional(case))


@on(FEWER)
def test_float64_on_the_scan(case: Case) -> None:
    check(case, np.float64, functional(case, "scan"))


@pytest.mark.usefixtures("optimized")
@on(FEW)
def test_float32(case: Case) -> None:
    check(case, np.float32, functional(case))


@pytest.mark.usefixtures("optimized")
@on([])
def test_float32_on_the_scan(case: Case) -> None:
    check(case, np.float32, functional(case, "scan"))


@pytest.mark.parametrize(
    "dtype", [np.float16, pytest.param(ml_dtypes.bfloat16, marks=pytest.mark.slow)], ids=lambda d: d.__name__
)
@pytest.mark.usefixtures("optimized")
@on(FEWER)
def test_half_precision(case: Case, dtype: Any) -> None:
    check(case, dtype, functional(case))


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", [nnx_module, linen_module], ids=["nnx", "linen"])
@on(FEWER)
def test_modules(case: Case, module: Callable[[Case], Forward], dtype: Any) -> None:
    check(case, dtype, module(case))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_single_sequence(with_state: bool, batch_first: bool) -> None:
    options: Any = {"bidirectional": True, "proj_size": 2, "batch_first": batch_first}
    module = torch.nn.LSTM(3, 5, 2, dtype=torch.float64, **options)
    x = torch.randn(7, 3).double()
    state = (torch.randn(4, 2).double(), torch.randn(4, 5).double()) if with_state else None
    expected, (h_n, c_n) = module(x, state)
    initial: Any = None if state is None else tuple(s.numpy() for s in state)
    with jax.enable_x64(True):
        params, config = jaxlstm.from_torch(module)
        run = jax.jit(lambda p, x, s: lstm(p, x, s, config=config))
        outputs, final = run(params, x.numpy(), initial)
    for ours, theirs in ((outputs, expected), (final.h, h_n), (final.c, c_n)):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=2e-15)


@pytest.mark.quick("bfloat16", "float32")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_splitting_a_sequence_changes_no_bit(dtype: type) -> None:
    config = LSTMConfig(3, 5, num_layers=2)
    params = init_params(jax.random.key(0), config, dtype=dtype)
    x = jax.random.normal(jax.random.key(1), (9, 4, 3)).astype(dtype)
    # The native kernel keeps the state of half precision in float32 during a call.
    backend = "auto" if dtype is np.float32 else "scan"
    run = jax.jit(lambda x, state: lstm(params, x, state, config=config, backend=backend))
    zeros = jaxlstm.LSTMState(*(jnp.zeros(shape, dtype) for shape in config.state_shapes(4)))
    whole, final = run(x, zeros)
    first, state = run(x[:4], zeros)
    second, state = run(x[4:], state)
    np.testing.assert_array_equal(jnp.concatenate([first, second]), whole)
    np.testing.assert_array_equal(state.c, final.c)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_lstm_cell_against_torch(bias: bool, batched: bool) -> None:
    cell = torch.nn.LSTMCell(3, 5, bias=bias, dtype=torch.float64)
    with jax.enable_x64(True):
        params, config = jaxlstm.from_torch(cell)
    assert config == jaxlstm.LSTMCellConfig(3, 5, bias=bias)
    batch = (4,) if batched else ()
    x, h, c = (torch.randn(*batch, size).double() for size in (3, 5, 5))
    for state in (None, (h, c)):
        expected = cell(x, state)
        initial: Any = None if state is None else tuple(s.numpy() for s in state)
        with jax.enable_x64(True):
            found = lstm_cell(params, x.numpy(), initial)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=2e-15)


def test_initial_distribution() -> None:
    params = init_params(jax.random.key(0), LSTMConfig(50, 100, num_layers=2))
    bound = 100**-0.5
    for name, value in params.items():
        flat = np.asarray(value).ravel()
        assert -bound <= flat.min() < flat.max() < bound, name
        deviation_of_mean = bound / 3**0.5 / flat.size**0.5
        assert abs(flat.mean()) < 5 * deviation_of_mean, name
        assert flat.max() > bound * (1 - 20 / flat.size), name
    pooled = np.concatenate([np.asarray(v).ravel() for v in params.values()])
    np.testing.assert_allclose(pooled.std(), bound / 3**0.5, rtol=0.01)
    assert np.abs(params["bias_ih_l0"] - params["bias_hh_l0"]).min() > 0  # separate keys


@pytest.mark.usefixtures("optimized")
def test_activation_accuracy() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([s * rng.standard_normal(500_000) for s in (0.01, 0.3, 1, 4)]).astype(np.float32)
    wide = x.astype(np.float64)
    for function, truth, largest, root_mean_square in (
        (tanh, np.tanh(wide), 1.4, 0.32),
        (sigmoid, 1 / (1 + np.exp(-wide)), 2.1, 0.56),
    ):
        ulp = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
        errors = np.abs(np.asarray(jax.jit(function)(x), np.float64) - truth) / ulp
        assert errors.max() <= largest
        assert np.sqrt(np.mean(errors**2)) <= root_mean_square


def test_tanh_special_values_and_derivative() -> None:
    edges = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan, 1e-30, 0.625, -0.625, 90.0, -1e30])
    np.testing.assert_allclose(tanh(edges), np.tanh(np.asarray(edges)), rtol=2e-7)
    assert np.signbit(tanh(edges))[1]
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(tanh))(x), 1 / np.cosh(np.asarray(x, np.float64)) ** 2, rtol=2e-3
    )
    np.testing.assert_allclose(
        jax.vmap(jax.grad(tanh))(x[40:61]), 1 - np.tanh(np.asarray(x[40:61])) ** 2, rtol=1e-6
    )


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
    np.testing.assert_array_equal(lstm(PARAMS, X, config=CONFIG)[0], lstm(PARAMS, X, config=still)[0])
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


GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
HALF_OF_THE_LAST_DECIMAL = 0.5e-4 + 1e-9


@pytest.mark.parametrize("name", ["time_major", "batch_first_with_initial_state"])
def test_printed_numbers(name: str) -> None:
    golden = GOLDEN[name]
    torch.manual_seed(golden["torch_manual_seed"])
    module, config = torch.nn.LSTM(**golden["constructor"]), LSTMConfig(**golden["constructor"])
    params = {name: jnp.asarray(leaf.numpy()) for name, leaf in module.state_dict().items()}
    given = {"input": jnp.array(golden["input"])}
    if "h_0" in golden:  # The notebook drew the inputs and the state too.
        given = {name: torch.randn(np.shape(golden[name])).numpy() for name in ("input", "h_0", "c_0")}
    x, *state = given.values()
    outputs, (h_n, c_n) = jax.jit(partial(lstm, config=config))(params, x, tuple(state) or None)
    gate_i = params["weight_hh_l0"][: config.hidden_size]
    found = given | {"output": outputs, "h_n": h_n, "c_n": c_n, "weight_hh_l0_gate_i": gate_i}
    for key in found.keys() & golden.keys():
        assert np.shape(found[key]) == np.shape(golden[key])
        np.testing.assert_allclose(found[key], golden[key], rtol=0, atol=HALF_OF_THE_LAST_DECIMAL)
