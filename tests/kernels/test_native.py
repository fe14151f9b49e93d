"""The native kernel against the plain scan: shapes, threads, instruction sets, ragged rows, random problems.

After a change to the kernel, run ``CONFIGS=1000 pytest tests/kernels/test_native.py -k native_equals_scan``.
A problem depends only on the seed and its number, so FIRST_CONFIG repeats one. Sums that nearly cancel
amplify rounding, which may explain an error of a few times the tolerance.
"""

import ctypes
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState, kernels, lstm
from jaxlstm.functional import run_layers
from jaxlstm.kernels.cpu import ffi
from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library
from jaxlstm.kernels.operations import FORWARD, FORWARD_AND_DIFFERENTIATE
from jaxlstm.layer.cell import LSTM
from jaxlstm.layer.gru_rnn import GRU
from testing.problems import ODD, Problem, draw, needs_native, rms, using, values_and_gradients, worst_error

pytestmark = needs_native


@lru_cache
def by_scan(problem: Problem, dtype: Any) -> Any:
    return values_and_gradients(problem, dtype, "scan")


def error(problem: Problem, dtype: Any) -> float:
    with jax.enable_x64(dtype == jnp.float64):
        return worst_error(values_and_gradients(problem, dtype, "native"), by_scan(problem, dtype))


# Other problems, here and in test_amx.py, have the traits of numbers 2 and 7.
@pytest.mark.quick(*(str(problem) for n, problem in enumerate(ODD) if n not in (2, 7)))
@pytest.mark.parametrize("problem", ODD, ids=str)
def test_values_and_gradients_match_the_scan(problem: Problem) -> None:
    assert error(problem, jnp.float64) < 2e-14
    assert error(problem, jnp.float32) < 5e-6


def test_rms_error_is_not_larger_than_the_scan() -> None:
    """The products have long sums, where the order of summation matters most."""
    config, params, inputs, state, _ = draw(Problem(20, 6, 512, 1000), jnp.float32)

    def outputs(backend: str, dtype: Any) -> np.ndarray:
        cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, inputs, state))
        return np.asarray(lstm(*cast, config=config, backend=backend)[0], np.float64)

    with jax.enable_x64(True):
        truth = outputs("scan", jnp.float64)
    native, scan = (rms(outputs(b, jnp.float32), truth) for b in ("native", "scan"))
    assert native <= 1.05 * scan


@pytest.fixture(params=["baseline", "avx2", "avx512", "avx512_bf16", "amx", "amx_float16"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


@pytest.mark.parametrize("problem", [ODD[3], ODD[4], ODD[6], *ODD[-2:]], ids=str)
def test_instruction_sets(instruction_set: str, problem: Problem) -> None:
    assert library().instruction_set == instruction_set
    assert error(problem, jnp.float32) < 5e-6


@pytest.mark.parametrize(
    ("problem", "dtype"),
    [
        # threads split the units
        (Problem(30, 24, 40, 200, ragged=True, bidirectional=True), jnp.float32),
        (Problem(8, 24, 33, 96), jnp.bfloat16),
        (Problem(20, 4, 40, 200, ragged=True, bidirectional=True, gru=True), jnp.float32),
        # threads split the rows
        (Problem(9, 48, 24, 100, proj_size=30), jnp.float32),
        (Problem(9, 48, 24, 100, gru=True), jnp.float32),
    ],
    ids=str,
)
def test_results_do_not_depend_on_the_number_of_threads(
    problem: Problem, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads than cores are allowed, and repeated calls agree."""
    results = []
    for threads in (1, 2, 3, 8, 2):
        monkeypatch.setattr(ffi, "THREADS", threads)
        results.append(values_and_gradients(problem, dtype, "native"))
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])


@pytest.mark.quick("projected-float32", "ragged-float16", "units-float32", "gru-float16")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(
    "problem",
    [ODD[3], ODD[4], Problem(12, 20, 60, 96, bidirectional=True), ODD[-2]],
    ids=["projected", "ragged", "units", "gru"],
)
def test_both_directions_at_once_have_the_bits_of_one_after_the_other(
    problem: Problem, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without derivatives one call runs both directions; with derivatives each has its own."""
    config, params, inputs, state, lengths = draw(problem, dtype)

    def run(x: jax.Array) -> Any:
        return run_layers(params, x, state, config=config, seq_lengths=lengths, backend="native")

    one_by_one, _ = jax.jvp(run, (inputs,), (jnp.zeros_like(inputs),))
    for threads in (1, 2, 5):
        monkeypatch.setattr(ffi, "THREADS", threads)
        jax.tree.map(np.testing.assert_array_equal, jax.jit(lambda x: run(x))(inputs), one_by_one)


@pytest.mark.parametrize(
    ("problem", "dtype"),
    [
        (Problem(12, 29, 40, 130), jnp.float32),
        (Problem(12, 29, 20, 70), jnp.bfloat16),
        (Problem(12, 29, 20, 70, proj_size=40), jnp.bfloat16),
        (ODD[-1], jnp.float32),
        # With up to 20 rows W_ih x is computed ahead.
        (Problem(10, 29, 40, 400), jnp.float64),
    ],
    ids=str,
)
def test_a_row_does_not_depend_on_its_batch(problem: Problem, dtype: Any) -> None:
    """Rows agree bit for bit in batches of any size, although a batch of one takes another code path.

    In float32, and in bfloat16 where it is multiplied as float32, AMX is used for batches of 12 rows and
    more, and agrees only among these.
    """
    with jax.enable_x64(dtype == jnp.float64):
        assert_rows_are_independent(problem, dtype)


def assert_rows_are_independent(problem: Problem, dtype: Any) -> None:
    config, params, *arrays, _ = draw(problem, dtype)
    inputs, state = jax.tree.map(np.asarray, arrays)
    run = jax.jit(lambda x, state: run_layers(params, x, state, config=config, backend="native"))
    whole, last = jax.tree.map(np.asarray, run(inputs, state))
    by_rows = kernels.info()["products"][jnp.dtype(dtype).name] == "float32"
    amx = library().instruction_set.startswith("amx") and by_rows and not problem.gru
    few = (slice(0, 1), slice(3, 5), slice(4, 8), slice(10, 17))
    many = (slice(0, 12), slice(0, 16), slice(3, 27))
    for rows in many if amx else few + many:
        part, last_part = run(inputs[:, rows], jax.tree.map(lambda leaf: leaf[:, rows], state))  # noqa: B023
        np.testing.assert_array_equal(part, whole[:, rows])
        for leaf, leaf_of_whole in zip(*map(jax.tree.leaves, (last_part, last)), strict=True):
            np.testing.assert_array_equal(leaf, leaf_of_whole[:, rows])


RAGGED = [
    Problem(40, 3, 6, 70),  # computes W_ih x ahead
    Problem(40, 7, 14, 400),  # threads split the units; one thread computes W_ih x ahead if nearly full
    Problem(40, 64, 8, 8),  # threads split the rows
    Problem(40, 13, 20, 130, proj_size=40),
    Problem(50, 29, 40, 130),  # two blocks of rows with AMX
    Problem(40, 3, 6, 70, gru=True),
    Problem(40, 64, 8, 8, gru=True),
]
PATTERNS = ("longest first", "unsorted", "all empty", "nearly full", "scattered")


def mask(pattern: str, time: int, batch: int) -> np.ndarray:
    """Return a bool mask (time, batch), mostly False unless "nearly full"."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, time // 3, batch)
    if pattern == "longest first":
        lengths = np.sort(lengths)[::-1]
    elif pattern == "unsorted":
        lengths[batch // 2 :] = 0
    elif pattern == "all empty":
        lengths[:] = 0
    elif pattern == "nearly full":
        lengths = time - lengths // 4
    else:
        return rng.random((time, batch)) * rng.random((time, 1)) > 0.8
    return np.arange(time)[:, None] < lengths


def direction(problem: Problem) -> tuple[dict, Any, LSTMState]:
    """Draw the params, inputs and state of one direction."""
    _, params, inputs, state, _ = draw(problem, jnp.float32)
    params = {name.removesuffix("_l0"): leaf for name, leaf in params.items()}
    h, *c = (np.asarray(leaf)[0] for leaf in jax.tree.leaves(state))
    return params, inputs, LSTMState(h, c[0] if c else None)  # type: ignore[arg-type]


@pytest.mark.quick(
    "T40-B3-I6-H70-True",
    "T40-B7-I14-H400-False",
    "T40-B64-I8-H8-True",
    "T40-B13-I20-H130-P40-False",
    "T40-B3-I6-H70-gru-True",
    "T40-B64-I8-H8-gru-False",
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("problem", RAGGED, ids=str)
def test_ragged_batches(problem: Problem, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    params, inputs, state = direction(problem)
    masks = [mask(pattern, problem.time, problem.batch) for pattern in PATTERNS]

    def results_of(*functions: Any) -> list[Any]:
        @jax.jit
        def run(valid: Any) -> Any:
            arrays = params, inputs, state, valid
            static = {"reverse": reverse, "precision": None, "cell": GRU if problem.gru else LSTM}
            return [function(*arrays, **static) for function in functions]

        return [run(valid) for valid in masks]

    expected = results_of(FORWARD.plain, FORWARD_AND_DIFFERENTIATE.plain)
    kernels = [operation.kernel(ffi.forward_pass) for operation in (FORWARD, FORWARD_AND_DIFFERENTIATE)]
    for threads in (1, 3):
        monkeypatch.setattr(ffi, "THREADS", threads)
        for valid, actual, right in zip(masks, results_of(*kernels), expected, strict=True):
            assert worst_error(actual, right) < 5e-6
            (outputs, last), _ = jax.tree.map(np.asarray, actual)
            assert not outputs[~valid].any()
            never = ~valid.any(axis=0)
            for leaf, first in zip(jax.tree.leaves(last), jax.tree.leaves(state), strict=True):
                np.testing.assert_array_equal(leaf[never], first[never])


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40, -1e-40], np.float32)


def activations(x: np.ndarray, dtype: str) -> list[np.ndarray]:
    """Return the kernel's sigmoid and tanh of a float32 array, as in a call of a dtype."""
    handle, results = library().handle, [np.empty_like(x), np.empty_like(x)]
    assert handle is not None
    pointers = (array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for array in (x, *results))
    handle.jaxlstm_activations(DTYPE_NUMBERS[dtype], *pointers, ctypes.c_long(x.size))
    return results


def exact(x: np.ndarray) -> list[np.ndarray]:
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return [1 / (1 + np.exp(-wide)), np.tanh(wide)]


def test_float32_is_accurate_to_one_and_a_half_ulp() -> None:
    """Results that are subnormal may be flushed to zero, as in XLA."""
    bits = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32).view(np.float32)
    x = np.concatenate([bits, np.random.default_rng(1).uniform(-20, 20, 2**20).astype(np.float32)])
    x = x[~np.isnan(x)]
    for actual, expected in zip(activations(x, "float32"), exact(x), strict=True):
        spacing = np.spacing(np.abs(expected).astype(np.float32))
        normal = np.abs(expected) >= np.finfo(np.float32).tiny
        assert (np.abs(actual - expected) / spacing)[normal].max() <= 1.5
        assert np.abs(actual).max() <= 1


def test_special_values() -> None:
    for dtype in ("float32", "bfloat16"):
        for actual, expected in zip(activations(SPECIAL, dtype), exact(SPECIAL), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-37)
    _, tanh = activations(SPECIAL, "float32")
    assert np.signbit(tanh[1])


CONFIGS, FIRST, SEED = (
    int(os.environ.get(name, default))
    for name, default in (("CONFIGS", "4"), ("FIRST_CONFIG", "0"), ("CONFIGS_SEED", "1"))
)
TOLERANCE = {"float32": 5e-6, "float64": 2e-14, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest accepted ``worst_error`` of each dtype. In half precision the scan's own error is as large."""


def draw_problem(number: int) -> tuple[Problem, str, int]:
    """Draw a problem with sizes near vectors, blocks and panels, a dtype and the number of threads."""
    rng = np.random.default_rng([SEED, number])
    hidden_size = int(rng.choice([1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 130]))
    projected = hidden_size > 1 and rng.random() < 0.3
    gru = bool(not projected and rng.random() < 0.5)
    problem = Problem(
        time=int(rng.choice([1, 2, 3, 5, 9, 20, 40])),
        batch=int(rng.choice([1, 2, 3, 4, 5, 7, 13, 16, 24, 29, 32, 33, 48, 67, 100])),
        input_size=int(rng.choice([1, 3, 8, 16, 17, 40, 70, 128])),
        hidden_size=hidden_size,
        proj_size=int(rng.integers(1, hidden_size)) if projected else 0,
        bidirectional=bool(rng.random() < 0.5),
        bias=bool(rng.random() < 0.5),
        ragged=bool(rng.random() < 0.5),
        gru=gru,
    )
    return problem, str(rng.choice(list(TOLERANCE))), int(rng.choice([1, 2, 3, 8]))


@pytest.mark.parametrize("number", range(FIRST, FIRST + CONFIGS))
def test_native_equals_scan(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, dtype, threads = draw_problem(number)
    monkeypatch.setattr(ffi, "THREADS", threads)
    with jax.enable_x64(dtype == "float64"):
        native, scan = (values_and_gradients(problem, jnp.dtype(dtype), b) for b in ("native", "scan"))
    error = worst_error(native, scan)
    assert error <= TOLERANCE[dtype], (problem, dtype, threads, error)
    if number % 50 == 49:
        jax.clear_caches()
