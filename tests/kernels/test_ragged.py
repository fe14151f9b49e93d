"""What the native kernel leaves out: rows behind the last valid one, and steps without any."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState, scan
from jaxlstm.kernels.cpu import ffi
from tests.support.problems import Problem, draw, needs_native, worst_error

pytestmark = needs_native

PROBLEMS = [
    Problem(40, 3, 6, 70),  # W_ih x computed ahead
    Problem(40, 7, 6, 200),  # units shared out
    Problem(40, 64, 8, 8),  # rows shared out
    Problem(40, 13, 20, 130, proj_size=40),
    Problem(50, 29, 40, 130),  # AMX, two blocks of rows
]
SHAPES = ("longest first", "unsorted", "none at all", "here and there")


def validity(shape: str, time: int, batch: int) -> np.ndarray:
    """Bool (time, batch), most of it False."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, time // 3, batch)
    if shape == "longest first":
        lengths = np.sort(lengths)[::-1]
    elif shape == "unsorted":
        lengths[batch // 2 :] = 0
    elif shape == "none at all":
        lengths[:] = 0
    else:
        return rng.random((time, batch)) * rng.random((time, 1)) > 0.8
    return np.arange(time)[:, None] < lengths


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_scan_s_numbers(
    problem: Problem, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffi, "THREADS", threads)
    _, params, inputs, state, _ = draw(problem, jnp.float32)
    params = {name.removesuffix("_l0"): leaf for name, leaf in params.items()}
    state = LSTMState(*(leaf[0] for leaf in state))

    def both(functions: Any, valid: Any, reverse: bool) -> Any:
        static = {"reverse": reverse, "precision": "highest"}
        arrays = (params, inputs, state, valid)
        run, derive = functions.run, functions.run_and_differentiate
        return run(*arrays, **static), derive(*arrays, **static)

    for reverse in (False, True):
        native, plain = (
            jax.jit(lambda valid, f=f, r=reverse: both(f, valid, r)) for f in (ffi.KERNELS, scan)
        )
        for shape in SHAPES:
            valid = validity(shape, problem.time, problem.batch)
            found, wanted = native(valid), plain(valid)
            assert worst_error(found, wanted) < 5e-6, (shape, reverse)
            (outputs, last), _ = found
            assert not np.asarray(outputs)[~valid].any()
            never = ~valid.any(axis=0)
            np.testing.assert_array_equal(last.h[never], state.h[never])
            np.testing.assert_array_equal(last.c[never], state.c[never])


@pytest.mark.parametrize("filling", [0.0, np.nan])
@pytest.mark.parametrize(("rows", "batch"), [(3, 5), (9, 16), (17, 32), (30, 48)])
def test_padding_behind_the_last_row_changes_no_bit(rows: int, batch: int, filling: float) -> None:
    """Not even where a full batch of that size would go over AMX."""
    _, params, inputs, state, _ = draw(Problem(20, batch, 9, 70), jnp.float32)
    params = {name.removesuffix("_l0"): leaf for name, leaf in params.items()}
    lengths = np.random.default_rng(0).integers(1, 21, rows)
    valid = np.arange(20)[:, None] < np.pad(lengths, (0, batch - rows))
    inputs = inputs.at[:, rows:].set(filling)
    state = LSTMState(*(leaf[0].at[rows:].set(filling) for leaf in state))

    def run(inputs: Any, state: Any, valid: Any) -> Any:
        arrays = (params, inputs, state, valid)
        return ffi.KERNELS.run(*arrays, reverse=False, precision="highest")

    padded, padded_last = jax.jit(run)(inputs, state, valid)
    alone = (inputs[:, :rows], LSTMState(*(leaf[:rows] for leaf in state)), valid[:, :rows])
    outputs, last = jax.jit(run)(*alone)
    np.testing.assert_array_equal(padded[:, :rows], outputs)
    for a, e in zip(padded_last, last, strict=True):
        np.testing.assert_array_equal(a[:rows], e)
