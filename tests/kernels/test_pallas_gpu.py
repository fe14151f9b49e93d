"""The Pallas kernels for GPUs, interpreted on a CPU: values and gradients against torch and the scan."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxlstm.kernels.pallas
from jaxlstm import LSTMConfig, init_params, lstm
from jaxlstm.kernels.gpu import CUDA
from jaxlstm.kernels.gpu.plan import LARGEST, plan_of
from tests.support.cases import CASES, Case
from tests.kernels.interpreted import interpreted
from tests.support.problems import Problem, draw, values_and_gradients, worst_error
from tests.test_cases import check, functional

INTERPRETED = interpreted("lstm_gpu_interpreted", CUDA)

FEW = CASES[2::19]  # which cover every pair of settings of two columns


@pytest.fixture(autouse=True)
def on_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxlstm.kernels.pallas, "PALLAS", INTERPRETED)


def cases(by_default: list[Case]) -> pytest.MarkDecorator:
    slow = pytest.mark.slow
    rows = [case if case in by_default else pytest.param(case, marks=slow) for case in CASES]
    return pytest.mark.parametrize("case", rows, ids=str)


@cases(FEW)
def test_float32_against_torch(case: Case) -> None:
    check(case, np.float32, functional(case, "pallas"))


@cases(FEW[::2])
def test_bfloat16_against_torch(case: Case) -> None:
    check(case, ml_dtypes.bfloat16, functional(case, "pallas"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float16_against_torch(case: Case) -> None:
    check(case, np.float16, functional(case, "pallas"))


# One tile or several of units and of features, one program or many, with rests in both.
ODD = [
    Problem(1, 1, 1, 1),
    Problem(7, 3, 3, 33, bidirectional=True),
    Problem(4, 3, 4, 130, proj_size=65, bias=False, ragged=True),
    pytest.param(Problem(5, 2, 4, 70, ragged=True), marks=pytest.mark.slow),
    pytest.param(Problem(3, 5, 4, LARGEST, proj_size=5), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("problem", ODD, ids=str)
def test_shapes_that_tiles_do_not_fit(problem: Problem) -> None:
    found = values_and_gradients(problem, jnp.float32, "pallas")
    assert worst_error(found, values_and_gradients(problem, jnp.float32, "scan")) < 5e-6


@pytest.mark.parametrize("batch", [1, 16, 19])
def test_rows_of_tensor_cores(batch: int) -> None:
    """Below float32 a program has sixteen rows, of which the last one's may be fewer."""
    problem = Problem(4, batch, 3, 20, ragged=True, bidirectional=True)
    config, params, inputs, state, lengths = draw(problem, jnp.float32)
    found, expected = (
        lstm(
            params, inputs, state, config=config, seq_lengths=lengths, precision="high", backend=how
        )
        for how in ("pallas", "scan")
    )
    assert worst_error(found, expected) < 5e-6


def test_weights_that_fit_stay_on_the_chip() -> None:
    def resident(hidden_size: int, dtype: Any, proj_size: int = 0) -> bool:
        config = LSTMConfig(3, hidden_size, proj_size=proj_size)
        params = init_params(jax.random.key(0), config, dtype=dtype)
        params = {name.removesuffix("_l0"): leaf for name, leaf in params.items()}
        return plan_of(params, jnp.zeros((2, hidden_size), dtype), "highest").resident

    assert resident(64, jnp.float32)
    assert not resident(65, jnp.float32)
    assert resident(128, jnp.bfloat16)
    assert not resident(129, jnp.bfloat16)
    assert resident(128, jnp.float32, proj_size=32)
    assert not resident(128, jnp.float32, proj_size=65)


def test_nan_stays_in_its_row() -> None:
    config, params, inputs, state, _ = draw(Problem(6, 20, 5, 20), jnp.float32)
    spoilt = inputs.at[3, 2, 1].set(jnp.nan)
    for precision in ("highest", "high"):
        run = lambda x, how: lstm(params, x, state, config=config, precision=precision, backend=how)  # noqa: B023, E731
        clean, found = run(inputs, "pallas")[0], run(spoilt, "pallas")[0]
        others = np.arange(20) != 2
        np.testing.assert_array_equal(found[:, others], clean[:, others])
        assert np.isnan(found[3:, 2]).all()
        np.testing.assert_array_equal(found[:3], clean[:3])


def test_no_rows_at_all() -> None:
    config, params, inputs, state, _ = draw(Problem(4, 0, 3, 5), jnp.float32)
    outputs, last = lstm(params, inputs, state, config=config, backend="pallas")
    assert outputs.shape == (4, 0, 5)
    assert last.c.shape == (1, 0, 5)


def test_a_length_of_zero_leaves_the_state() -> None:
    config, params, inputs, state, _ = draw(Problem(4, 3, 3, 5, bidirectional=True), jnp.float32)
    run = jax.jit(
        lambda n: lstm(params, inputs, state, config=config, seq_lengths=n, backend="pallas")
    )
    outputs, last = run(jnp.array([2, 0, 4]))
    np.testing.assert_array_equal(outputs[:, 1], 0)
    np.testing.assert_array_equal(last.h[:, 1], state.h[:, 1])
    np.testing.assert_array_equal(last.c[:, 1], state.c[:, 1])


def test_vmap_folds_into_the_batch() -> None:
    config, params, inputs, state, _ = draw(Problem(4, 6, 3, 5), jnp.float32)
    run = lambda x, s: lstm(params, x, s, config=config, backend="pallas")  # noqa: E731
    whole = run(inputs, state)
    split = lambda x: x.reshape(x.shape[0], 2, 3, *x.shape[2:])  # noqa: E731
    halves = jax.vmap(run, 1, 1)(split(inputs), jax.tree.map(split, state))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
        np.testing.assert_array_equal(split(one), other)


def test_more_units_than_there_is_a_program_for() -> None:
    problem = Problem(2, 1, 3, LARGEST + 1)
    with pytest.raises(ValueError, match=rf"hidden_size up to {LARGEST}, got {LARGEST + 1}; use"):
        values_and_gradients(problem, jnp.float32, "pallas")
