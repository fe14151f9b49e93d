"""The TPU kernels, interpreted on a CPU: values and gradients against torch and the plain scan."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxlstm import kernels, lstm
from jaxlstm.kernels.tpu import TPU, passes, plan
from jaxlstm.kernels.tpu.products import product, split
from jaxlstm.layer.scan import PLAIN
from testing.cases import CASES, Case, check, functional, settings
from testing.interpreted import interpreted
from testing.problems import Problem, draw, values_and_gradients, worst_error

INTERPRETED = interpreted("lstm_tpu_interpreted", TPU)


@pytest.fixture(autouse=True)
def auto_selects_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def select(backend: str, *_: Any, **__: Any) -> Any:
        return PLAIN if backend == "scan" else INTERPRETED

    monkeypatch.setattr(kernels, "select_recurrence", select)


# THREE has both values of each setting, and ONE has most features. The rest of the table is slow.
THREE, ONE = CASES[::43], CASES[68:69]


def on(cases: list[Case]) -> pytest.MarkDecorator:
    slow = pytest.mark.slow
    rows = [case if case in cases else pytest.param(case, marks=slow) for case in CASES]
    return pytest.mark.parametrize("case", rows, ids=str)


@on(THREE)
def test_float32_against_torch(case: Case) -> None:
    check(case, np.float32, functional(case))


@on(ONE)
def test_bfloat16_against_torch(case: Case) -> None:
    check(case, ml_dtypes.bfloat16, functional(case))


def test_three_cases_have_every_setting() -> None:
    for values in zip(*map(settings, THREE), strict=True):
        assert len(set(values)) == 2


# A tile is 16 rows by 128, and a block has 128 rows of one or more steps. Some of these problems have several
# blocks, the last with fewer steps.
ODD = [
    Problem(1, 1, 1, 1),
    Problem(5, 3, 4, 17, proj_size=5, bidirectional=True, ragged=True),
    pytest.param(Problem(21, 20, 130, 140, bias=False, ragged=True), marks=pytest.mark.slow),
    pytest.param(Problem(3, 129, 6, 16, ragged=True), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("problem", ODD, ids=str)
def test_shapes_that_need_padding(problem: Problem) -> None:
    actual = values_and_gradients(problem, jnp.float32, "auto")
    assert worst_error(actual, values_and_gradients(problem, jnp.float32, "scan")) < 1e-6


def test_the_kernels_run_and_fetch_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of a weight is the whole array in one buffer, the same for all grid points."""
    calls: list[Any] = []
    real = plan.call
    monkeypatch.setattr(passes, "call", lambda *a: calls.append(a) or real(*a))
    values_and_gradients(Problem(3, 2, 4, 5, proj_size=2), jnp.float32, "auto")
    assert [kernel.func for kernel, *_ in calls] == [passes._forward_kernel, passes._backward_kernel]
    for _, _, operands, *_ in calls:
        weights = {name: parts for name, parts in operands.items() if name.startswith("weight")}
        assert weights.keys() - {"weight_ih"} == {"weight_hh", "weight_hr"}
        for array, blocks in itertools.chain(*weights.values()):
            assert blocks.block_shape == array.shape
            assert blocks.pipeline_mode.buffer_count == 1
            assert blocks.index_map(1, 2) == (0, 0)


@pytest.mark.parametrize(("precision", "least", "most"), [("high", 0, 2e-5), ("default", 1e-4, 2e-2)])
def test_lower_precision(precision: str, least: float, most: float) -> None:
    config, params, inputs, state, _ = draw(Problem(8, 3, 40, 64), jnp.float32)
    actual = lstm(params, inputs, state, config=config, precision=precision)
    expected = lstm(params, inputs, state, config=config, backend="scan")
    assert least <= worst_error(actual, expected) < most


def test_no_precision_means_the_default_of_jax() -> None:
    """Without a value of ``jax.default_matmul_precision``, the default is bfloat16."""
    config, params, inputs, state, _ = draw(Problem(4, 3, 40, 64), jnp.float32)
    run = lambda precision: lstm(params, inputs, state, config=config, precision=precision)[0]  # noqa: E731
    np.testing.assert_array_equal(run(None), run("default"))
    with jax.default_matmul_precision("float32"):
        np.testing.assert_array_equal(run(None), run("highest"))
    # An algorithm without a corresponding level becomes the lowest level that is at least as precise.
    with jax.default_matmul_precision("BF16_BF16_F32_X3"):
        np.testing.assert_array_equal(run(None), run("highest"))


def test_products_of_parts_ignore_the_default_of_jax() -> None:
    """A TPU multiplies bfloat16 exactly, and its compiler rejects "high" for bfloat16."""
    x, w = jnp.ones((16, 8)), jnp.ones((8, 128))
    with jax.default_matmul_precision("highest"):
        jaxpr = jax.make_jaxpr(lambda x, w: product(x, split(w, 3), 3))(x, w)
    dots = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert [e.params["precision"] for e in dots] == [(jax.lax.Precision.DEFAULT,) * 2] * 3


def test_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((64, 64)) * 10.0 ** rng.integers(-20, 20, (64, 64)), jnp.float32)
    parts = jax.jit(lambda x: split(x, 3))(x)
    assert [part.dtype for part in parts] == [jnp.bfloat16] * 3
    np.testing.assert_array_equal(np.sum([np.asarray(part, np.float64) for part in parts], axis=0), x)


def test_a_product_of_three_parts_has_float32_accuracy() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 512), (512, 128)))
    truth = x.astype(np.float64) @ w.astype(np.float64)
    rms = lambda x: float(np.sqrt(np.mean((np.asarray(x, np.float64) - truth) ** 2)))  # noqa: E731
    ours = rms(product(jnp.asarray(x), split(jnp.asarray(w), 3), 3))
    assert ours <= 1.1 * rms(jnp.matmul(x, w, precision="highest"))


def test_nan_and_inf_stay_in_their_row() -> None:
    config, params, inputs, state, _ = draw(Problem(5, 20, 4, 6), jnp.float32)
    clean = lstm(params, inputs, state, config=config)[0]
    spoilt = inputs.at[1, 0, 2].set(jnp.inf).at[2, 1, 0].set(jnp.nan)
    actual = lstm(params, spoilt, state, config=config)[0]
    np.testing.assert_array_equal(actual[:, 2:], clean[:, 2:])
    np.testing.assert_array_equal(actual[:1, 0], clean[:1, 0])
    np.testing.assert_array_equal(actual[:2, 1], clean[:2, 1])
    assert np.isnan(actual[2:, 1]).all()


@pytest.mark.parametrize(
    "case", ["float64", "no rows", "weights beyond VMEM"], ids=lambda c: c.replace(" ", "-")
)
def test_the_plain_scan_runs_unsupported_calls(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "call", lambda *_: pytest.fail("the kernel was called"))
    problem = Problem(4, 0 if case == "no rows" else 3, 3, 5, proj_size=2)
    if case == "weights beyond VMEM":
        monkeypatch.setattr(plan, "V5E_VMEM", 2**16)
    dtype = jnp.float64 if case == "float64" else jnp.float32
    with jax.enable_x64(case == "float64"):
        actual = values_and_gradients(problem, dtype, "auto")
        assert worst_error(actual, values_and_gradients(problem, dtype, "scan")) == 0


def test_vmap_folds_into_the_batch() -> None:
    config, params, inputs, state, _ = draw(Problem(4, 6, 3, 5), jnp.float32)
    run = lambda x, s: lstm(params, x, s, config=config)  # noqa: E731
    whole = run(inputs, state)
    halve = lambda x: x.reshape(x.shape[0], 2, 3, *x.shape[2:])  # noqa: E731
    halves = jax.vmap(run, 1, 1)(halve(inputs), jax.tree.map(halve, state))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
        np.testing.assert_array_equal(halve(one), other)
