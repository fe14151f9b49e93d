"""Half precision on the native kernel: accuracy, rows that do not depend on each other, NaN and infinity."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMConfig, lstm
from jaxlstm.functional import run_layers
from jaxlstm.inference import compile
from jaxlstm.kernels import info
from jaxlstm.kernels.cpu.library import library
from jaxlstm.layer.config import GRUConfig
from testing.inference import normal, weights
from testing.problems import needs_native, rms, using

pytestmark = [needs_native, pytest.mark.usefixtures("optimized")]

DTYPES = ("bfloat16", "float16")
CONFIGS = {
    "stack": LSTMConfig(7, 40, num_layers=2),
    "both": LSTMConfig(16, 33, bidirectional=True, bias=False),
    "projected": LSTMConfig(5, 48, proj_size=9),
    "many rows": LSTMConfig(40, 130),
    "gru": GRUConfig(7, 40, num_layers=2, bidirectional=True),
}
ROWS = {"many rows": 29}
"""Sequences of a config, if not a few. AMX takes 16 and more."""


@pytest.fixture(params=["best", "widened"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test twice: with the best instruction set of this machine, and with bfloat16 widened."""
    best = library().instruction_set
    if request.param == "best":
        yield best
        return
    if best == "baseline":
        pytest.skip("the best instruction set widens")
    with using("baseline"):
        yield "baseline"


def half(dtype: str, tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def results(name: str, dtype: str, backend: str, *, wide: bool = False) -> tuple[list, list]:
    """Return the outputs and last state of a config, and the gradients of parameters, inputs and state.

    With ``wide``, they are computed in float64. There are 720 or more steps times sequences, more than the
    gradients pass takes at a time.
    """
    config, rows = CONFIGS[name], ROWS.get(name, 12)
    params, x = half(dtype, weights(config)), half(dtype, normal(60, rows, config.input_size))
    state: Any = tuple(half(dtype, normal(*shape, seed=3)) for shape in config.state_shapes(rows))
    lengths = jnp.resize(jnp.array([60, 1, 7, 60, 59, 31, 60, 60, 2, 44, 60, 17]), (rows,))
    directions = (normal(60, rows, config.output_size, seed=5), *(normal(*h.shape, seed=6) for h in state))
    state = state if isinstance(config, LSTMConfig) else state[0]

    def loss(params: Any, x: Any, state: Any) -> Any:
        y, last = run_layers(params, x, state, config=config, seq_lengths=lengths, backend=backend)
        parts = [(a * b).sum() for a, b in zip((y, *jax.tree.leaves(last)), directions, strict=True)]
        return sum(parts[1:], parts[0]), (y, last)

    with jax.enable_x64(wide):
        arguments = (params, x, state)
        if wide:
            arguments = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), arguments)
        gradients, values = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arguments)
        return jax.tree.leaves(values), jax.tree.leaves(gradients)


@functools.cache
def scans(name: str, dtype: str) -> tuple[Any, Any]:
    """Return the results of the plain scan, and those in float64, once for all instruction sets."""
    return results(name, dtype, "scan"), results(name, dtype, "scan", wide=True)


@pytest.mark.quick("best-projected-bfloat16", "widened-both-float16")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["stack", "both", "projected", "many rows", "gru"])
def test_results_are_at_least_as_accurate_as_the_plain_scan(
    name: str, dtype: str, instruction_set: str
) -> None:
    """The errors are random: with the same rounding points they differ by a few percent."""
    native, (plain, exact) = results(name, dtype, "native"), scans(name, dtype)
    for ours, scan, truth, factor, slack in zip(native, plain, exact, (1.1, 1.2), (0, 1e-5), strict=True):
        for actual, other, reference in zip(ours, scan, truth, strict=True):
            assert actual.dtype == dtype
            limit = factor * rms(other, reference) + slack * rms(reference, 0)
            assert rms(actual, reference) <= limit


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_independent(dtype: str, instruction_set: str) -> None:
    """A row has the same bits in any batch, in a Runner's padded batch, and in a stream."""
    config = CONFIGS["stack"]
    params, x = half(dtype, weights(config)), np.asarray(half(dtype, normal(20, 7, 7)))
    runner = compile(params, config, max_length=32, max_batch=8)
    outputs, state = runner(x)
    whole = lstm(params, jnp.asarray(x), config=config, backend="native")
    np.testing.assert_array_equal(outputs, whole[0])
    np.testing.assert_array_equal(state.c, whole[1].c)
    np.testing.assert_array_equal(runner(x[:, 3:4])[0][:, 0], outputs[:, 3])
    stream = runner.stream(7)
    pieces = [stream(x[:9]), *(stream.step(step)[None] for step in x[9:12]), stream(x[12:])]
    assert pieces[1].dtype == dtype
    np.testing.assert_array_equal(np.concatenate(pieces), outputs)
    np.testing.assert_array_equal(stream.state.c, state.c)


@pytest.mark.quick("best-bfloat16-6", "best-bfloat16-30", "best-float16-6", "widened-float32-6")
@pytest.mark.parametrize(
    ("dtype", "rows"), [("float32", 6), ("bfloat16", 6), ("float16", 6), ("bfloat16", 30)]
)
def test_nan_and_infinity_stay_in_their_row(dtype: str, rows: int, instruction_set: str) -> None:
    """In float32 on AMX, as with float16, NaN changes the rounding of all rows, so there are few."""
    config = CONFIGS["stack"]
    params, x = half(dtype, weights(config)), normal(9, rows, 7)
    clean, _ = lstm(params, half(dtype, x), config=config, backend="native")
    x[4, 1], x[2, 3, 0] = np.nan, np.inf
    outputs, _ = lstm(params, half(dtype, x), config=config, backend="native")
    expected, _ = lstm(params, half(dtype, x), config=config, backend="scan")
    np.testing.assert_array_equal(np.isnan(outputs), np.isnan(expected))
    assert np.isnan(outputs[4:, 1]).all()
    others = [row for row in range(rows) if row not in (1, 3)]
    np.testing.assert_array_equal(outputs[:, others], clean[:, others])
    np.testing.assert_array_equal(outputs[:4, 1], clean[:4, 1])


def test_info_reports_the_products(instruction_set: str) -> None:
    expected = "bfloat16" if instruction_set in ("amx", "amx_float16", "avx512_bf16") else "float32"
    about = info()
    assert about["dtypes"] == ("float32", "float64", "bfloat16", "float16")
    assert about["products"] == {
        "float32": "float32",
        "float64": "float64",
        "bfloat16": expected,
        "float16": "float32",
    }
