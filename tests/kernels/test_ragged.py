"""Ragged batches in the native kernel, which skips rows after the last valid one and steps without any."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState
from jaxlstm.kernels.cpu import ffi
from jaxlstm.kernels.operations import FORWARD, FORWARD_AND_DIFFERENTIATE
from testing.problems import Problem, draw, needs_native, worst_error

pytestmark = [needs_native, pytest.mark.usefixtures("fast_compilation")]

PROBLEMS = [
    Problem(40, 3, 6, 70),  # computes W_ih x ahead
    Problem(40, 7, 6, 200),  # threads split the units
    Problem(40, 64, 8, 8),  # threads split the rows
    Problem(40, 13, 20, 130, proj_size=40),
    Problem(50, 29, 40, 130),  # two blocks of rows with AMX
]
PATTERNS = ("longest first", "unsorted", "all empty", "scattered")


def mask(pattern: str, time: int, batch: int) -> np.ndarray:
    """Return a bool mask (time, batch) that is mostly False."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, time // 3, batch)
    if pattern == "longest first":
        lengths = np.sort(lengths)[::-1]
    elif pattern == "unsorted":
        lengths[batch // 2 :] = 0
    elif pattern == "all empty":
        lengths[:] = 0
    else:
        return rng.random((time, batch)) * rng.random((time, 1)) > 0.8
    return np.arange(time)[:, None] < lengths


def direction(problem: Problem) -> tuple[dict, Any, LSTMState]:
    """Draw the params, inputs and state of one direction."""
    _, params, inputs, state, _ = draw(problem, jnp.float32)
    params = {name.removesuffix("_l0"): leaf for name, leaf in params.items()}
    return params, inputs, LSTMState(*(leaf[0] for leaf in state))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_matches_the_scan(problem: Problem, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    params, inputs, state = direction(problem)
    masks = [mask(pattern, problem.time, problem.batch) for pattern in PATTERNS]

    def results_of(*functions: Any) -> list[Any]:
        @jax.jit
        def run(valid: Any) -> Any:
            arrays, static = (params, inputs, state, valid), {"reverse": reverse, "precision": None}
            return [function(*arrays, **static) for function in functions]

        return [run(valid) for valid in masks]

    expected = results_of(FORWARD.plain, FORWARD_AND_DIFFERENTIATE.plain)
    kernels = [operation.kernel(ffi.forward_pass) for operation in (FORWARD, FORWARD_AND_DIFFERENTIATE)]
    for threads in (1, 3):
        monkeypatch.setattr(ffi, "THREADS", threads)
        for valid, actual, right in zip(masks, results_of(*kernels), expected, strict=True):
            assert worst_error(actual, right) < 5e-6
            (outputs, last), _ = actual
            assert not np.asarray(outputs)[~valid].any()
            never = ~valid.any(axis=0)
            np.testing.assert_array_equal(last.h[never], state.h[never])
            np.testing.assert_array_equal(last.c[never], state.c[never])


@pytest.mark.parametrize("filling", [0.0, np.nan])
@pytest.mark.parametrize(("input_size", "hidden_size"), [(9, 70), (40, 130)])
@pytest.mark.parametrize(("rows", "batch"), [(3, 5), (9, 16), (17, 32), (30, 48)])
def test_padding_rows_change_no_bit(
    rows: int, batch: int, input_size: int, hidden_size: int, filling: float
) -> None:
    """This holds even if a full batch of the padded size would use AMX."""
    params, inputs, state = direction(Problem(20, batch, input_size, hidden_size))
    lengths = np.random.default_rng(0).integers(1, 21, rows)
    valid = np.arange(20)[:, None] < np.pad(lengths, (0, batch - rows))
    inputs = inputs.at[:, rows:].set(filling)
    state = LSTMState(*(leaf.at[rows:].set(filling) for leaf in state))

    @jax.jit
    def run(inputs: Any, state: Any, valid: Any) -> Any:
        arrays = (params, inputs, state, valid)
        return FORWARD.kernel(ffi.forward_pass)(*arrays, reverse=False, precision="highest")

    padded, padded_last = run(inputs, state, valid)
    unpadded = (inputs[:, :rows], LSTMState(*(leaf[:rows] for leaf in state)), valid[:, :rows])
    outputs, last = run(*unpadded)
    np.testing.assert_array_equal(padded[:, :rows], outputs)
    for a, e in zip(padded_last, last, strict=True):
        np.testing.assert_array_equal(a[:rows], e)
