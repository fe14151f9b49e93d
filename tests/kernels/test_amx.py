"""The native kernel on AMX: the batches that use it, its accuracy, and calls that fall back to vectors."""

import ctypes
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import lstm
from jaxlstm.kernels.cpu.library import library
from testing.problems import Problem, draw, needs_native, rms, using, values_and_gradients

pytestmark = needs_native


def test_batches_that_use_amx() -> None:
    """In float32, AMX needs 12 rows up to the last one with a valid step."""
    handle = library().handle
    assert handle is not None
    pays_for_tiles = handle.jaxlstm_pays_for_tiles
    pays_for_tiles.restype = ctypes.c_bool

    def pays(valid: np.ndarray | None, time: int, batch: int) -> bool:
        address = None if valid is None else valid.ctypes.data_as(ctypes.c_void_p)
        return pays_for_tiles(address, ctypes.c_int64(time), ctypes.c_int64(batch))

    for rows in [1, 9, 11, 12, 15, 17, 33, 1000]:
        assert pays(None, 3, rows) == (rows >= 12)
    rng = np.random.default_rng(0)
    for _ in range(300):
        time, batch = int(rng.integers(1, 6)), int(rng.integers(1, 60))
        valid = rng.random((time, batch)) < rng.choice([0.02, 0.1, 0.5])
        valid[:, rng.integers(0, batch + 1) :] = False
        used_rows = int(np.flatnonzero(valid.any(axis=0)).max(initial=-1)) + 1
        assert pays(valid, time, batch) == pays(None, time, used_rows)


@pytest.fixture(params=["amx", "amx_float16"])
def amx(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


AMX_SHAPES = [
    Problem(5, 16, 1, 7),  # one block of rows; the other sizes are smaller than a tile
    Problem(6, 16, 26, 70),  # short sums
    Problem(9, 29, 40, 130, ragged=True, bidirectional=True),  # two blocks, the last partly filled
    Problem(21, 48, 33, 70, bias=False, bidirectional=True),  # three blocks, several chunks ahead
    Problem(4, 16, 600, 530),  # sums longer than one chain
    Problem(5, 80, 40, 130),  # threads split the rows
    Problem(7, 20, 40, 130, proj_size=70, ragged=True),
]


@pytest.mark.parametrize("problem", AMX_SHAPES, ids=str)
def test_amx_has_float32_accuracy(amx: str, problem: Problem) -> None:
    """The RMS errors to float64 of values and gradients are at most the plain scan's.

    With tiles of float16, sums without AMX may have the larger error. The gradients of biases are sums
    without products. The kernel's have on average 1.2 times the error of XLA's, with AMX and without.
    """
    with jax.enable_x64(True):
        truth = jax.tree.leaves_with_path(values_and_gradients(problem, jnp.float64, "scan"))
    native, scan = (
        jax.tree.leaves(values_and_gradients(problem, jnp.float32, b)) for b in ("native", "scan")
    )
    sums = jax.tree.leaves(without_amx(problem)) if amx == "amx_float16" else scan
    for n, s, f, (path, t) in zip(native, scan, sums, truth, strict=True):
        rounding = 2.0**-25 * rms(t, 0)  # of the results themselves
        bound = 1.6 if "bias" in jax.tree_util.keystr(path) else 1.1
        assert rms(n, t) <= bound * max(rms(s, t), rms(f, t), rounding), path


def without_amx(problem: Problem) -> Any:
    with using("avx512"):
        return jax.block_until_ready(values_and_gradients(problem, jnp.float32, "native"))


@pytest.mark.parametrize("scale", [1e-25, 1e25, jnp.inf, jnp.nan])
def test_amx_falls_back_to_float32(amx: str, scale: float) -> None:
    """Operands outside 2^-60 to 2^60 give the same bits as AVX-512."""
    config, params, inputs, state, _ = draw(Problem(16, 20, 40, 130), jnp.float32)
    state = jax.tree.map(jnp.zeros_like, state)
    scaled = inputs * scale if scale < 1 else inputs.at[3, 2, 1].set(scale)

    def outputs_and_gradient(x: Any) -> Any:
        run = lambda x: lstm(params, x, state, config=config, backend="native")[0]  # noqa: E731
        outputs, pull = jax.vjp(run, x)
        return jax.block_until_ready((outputs, pull(scale * jnp.ones_like(outputs))))

    actual = outputs_and_gradient(scaled)
    with using("avx512"):
        expected = outputs_and_gradient(scaled)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def accuracy(params: dict, inputs: Any, state: Any, config: Any) -> tuple[float, float]:
    """Return the RMS error of the kernel, and the larger one of the scan and of the kernel without AMX.

    All are relative to the outputs of each row.
    """

    def outputs(backend: str, dtype: Any) -> np.ndarray:
        cast = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, inputs, state))
        return np.asarray(lstm(*cast, config=config, backend=backend)[0], np.float64)

    with jax.enable_x64(True):
        truth = outputs("scan", jnp.float64)
    size = np.sqrt(np.mean(truth**2, axis=(0, 2), keepdims=True))
    native, scan = (rms(outputs(b, jnp.float32) / size, truth / size) for b in ("native", "scan"))
    with using("avx512"):
        sums = rms(outputs("native", jnp.float32) / size, truth / size)
    return native, max(scan, sums)


@pytest.mark.parametrize(
    ("problem", "units", "rows", "weights", "first_state"),
    [
        (Problem(20, 20, 40, 130), 1e6, 0, 1, 1),  # inputs in units that differ by 1e12, and weights to match
        (Problem(20, 20, 40, 130), 1, 1e-3, 1, 1),  # rows whose inputs differ by 1e5
        (Problem(20, 20, 40, 130), 1, 0, 1e-2, 0),
        (Problem(2, 20, 256, 256), 1, 0, 30, 1),
        (Problem(20, 20, 40, 130), 1, 0, 1, 30),  # too large a state for the scales of float16
        (Problem(20, 20, 40, 130, bias=False), 1, 0, 1e-6, 0),  # outputs too small for them
    ],
)
def test_accuracy_at_unusual_scales(
    amx: str, problem: Problem, units: float, rows: float, weights: float, first_state: float
) -> None:
    config, params, inputs, state, _ = draw(problem, jnp.float32)
    of_input = units ** jnp.linspace(-1, 1, problem.input_size)
    inputs *= of_input
    if rows:
        inputs *= (rows ** jnp.linspace(0, 1.7, problem.batch))[:, None]
    params = {name: weights * value for name, value in params.items()}
    params["weight_ih_l0"] /= of_input
    state = jax.tree.map(lambda leaf: first_state * leaf, state)
    native, reference = accuracy(params, inputs, state, config)
    assert native <= 1.1 * max(reference, 2.0**-25)


def test_states_that_vanish_in_float16(amx: str) -> None:
    """In range are inputs of 2^-40 and weights of 2^-50. The states are about 2^-92."""
    config, params, inputs, state, _ = draw(Problem(9, 20, 40, 130, bias=False), jnp.float32)
    params["weight_ih_l0"] *= 2.0**-50
    native, reference = accuracy(params, inputs * 2.0**-40, jax.tree.map(jnp.zeros_like, state), config)
    assert native <= 1.1 * reference


def test_gradients_at_unusual_scales(amx: str) -> None:
    """Gradients vanish over 40 steps, and inputs have units that differ by 1e12.

    The RMS errors are relative to each column of a gradient of weights and each row of the inputs' gradient.
    """
    config, params, inputs, state, _ = draw(Problem(40, 64, 40, 130), jnp.float32)
    of_input = 1e6 ** jnp.linspace(-1, 1, 40)
    params["weight_ih_l0"] /= of_input

    def gradients(backend: str, dtype: Any) -> list[np.ndarray]:
        def last(params: Any, x: Any) -> Any:
            return lstm(params, x, cast_state, config=config, backend=backend)[0][-1].sum()

        cast_params, x, cast_state = jax.tree.map(
            lambda a: jnp.asarray(a, dtype), (params, inputs * of_input, state)
        )
        of_params, of_x = jax.grad(last, argnums=(0, 1))(cast_params, x)
        return [
            np.asarray(g, np.float64) for g in (of_params["weight_ih_l0"], of_params["weight_hh_l0"], of_x)
        ]

    with jax.enable_x64(True):
        truths = gradients("scan", jnp.float64)
    assert rms(truths[2][0], 0) < 1e-6 * rms(truths[2][-1], 0)
    for native, scan, truth, axis in zip(
        gradients("native", jnp.float32), gradients("scan", jnp.float32), truths, (0, 0, 2), strict=True
    ):
        size = np.sqrt(np.mean(truth**2, axis=axis, keepdims=True))
        assert rms(native / size, truth / size) <= 1.1 * rms(scan / size, truth / size)
