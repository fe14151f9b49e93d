"""The table of cases through the core, the NNX and the Linen module, jitted, against torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm.check.reference import torch_precision
from tests.support.cases import CASES, Arrays, Case, Results, assert_matches, draw, run_torch

TORCH_DTYPES = {
    np.dtype(np.float16): torch.float16,
    np.dtype(ml_dtypes.bfloat16): torch.bfloat16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
Forward = Callable[[Any, Any, Any, Any], Any]


@functools.cache
def reference(case: Case, dtype: np.dtype, device: str) -> tuple[Arrays, Results, Results]:
    """What goes in, torch's own answer in this dtype on a device, and the truth: torch's in float64 there."""
    arrays = draw(case, dtype)
    with torch_precision.pinned():
        return (
            arrays,
            run_torch(case, arrays, TORCH_DTYPES[dtype], device),
            run_torch(case, arrays, torch.float64, device),
        )


def check(case: Case, dtype: Any, forward: Forward, torch_device: str = "cpu") -> None:
    """``forward(params, inputs, state, lengths)``, its values and gradients, against torch."""
    dtype = np.dtype(dtype)
    arrays, torch_own, truth = reference(case, dtype, torch_device)

    @jax.jit
    def values_and_gradients(params: Any, inputs: Any, state: Any, lengths: Any, cotangents: Any):
        values, pull = jax.vjp(lambda p, x, s: forward(p, x, s, lengths), params, inputs, state)
        outputs, (h_n, c_n) = values
        dy, dh, dc = cotangents
        return (outputs, h_n, c_n), pull((dy, jaxlstm.LSTMState(dh, dc)))

    with jax.enable_x64(dtype == np.float64):
        state = None if arrays.state is None else jaxlstm.LSTMState(*map(jnp.asarray, arrays.state))
        (outputs, h_n, c_n), (dparams, dinputs, dstate) = values_and_gradients(
            arrays.params, arrays.inputs, state, case.lengths, arrays.cotangents
        )
        results = {"outputs": outputs, "h_n": h_n, "c_n": c_n, "d inputs": dinputs}
        results |= {f"d {name}": gradient for name, gradient in dparams.items()}
        if dstate is not None:
            results |= {"d h_0": dstate.h, "d c_0": dstate.c}
        assert_matches({n: np.asarray(a) for n, a in results.items()}, dtype, torch_own, truth)


def functional(case: Case, backend: str = "auto") -> Forward:
    return lambda params, inputs, state, lengths: jaxlstm.lstm(
        params, inputs, state, config=case.config, seq_lengths=lengths, backend=backend
    )


def nnx_module(case: Case) -> Forward:
    def forward(params: Any, inputs: Any, state: Any, lengths: Any) -> Any:
        model = jaxlstm.nnx.LSTM.from_params(params, case.config)
        graph, variables = nnx.split(model)
        return nnx.merge(graph, variables)(inputs, state, seq_lengths=lengths)

    return forward


def linen_module(case: Case) -> Forward:
    fields = jaxlstm.LSTMConfig.__dataclass_fields__
    model = jaxlstm.linen.LSTM(**{name: getattr(case.config, name) for name in fields})
    return lambda params, inputs, state, lengths: model.apply(
        {"params": params}, inputs, state, seq_lengths=lengths
    )


# A third of the table, still with each setting of each column beside each of every other. The whole table
# runs in float64, which shows any wrong port; rounding, and the modules around the same core, are tried on
# this much in each run, and on the rest with the slow tests.
SOME = CASES[::3]

each_case = pytest.mark.parametrize(
    "case",
    [case if case in SOME else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
    ids=str,
)


def dtypes(*choices: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("dtype", choices, ids=lambda d: d.__name__)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_functional_float64(case: Case) -> None:
    check(case, np.float64, functional(case, "scan" if case in SOME else "auto"))


@each_case
def test_functional_float32(case: Case) -> None:
    check(case, np.float32, functional(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_functional_float32_on_the_plain_scan(case: Case) -> None:
    check(case, np.float32, functional(case, "scan"))


@pytest.mark.slow
@pytest.mark.parametrize("case", SOME, ids=str)
def test_functional_float64_on_the_kernel(case: Case) -> None:
    check(case, np.float64, functional(case))


@dtypes(np.float16, ml_dtypes.bfloat16)
@each_case
def test_functional_half(case: Case, dtype: Any) -> None:
    check(case, dtype, functional(case))


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", [nnx_module, linen_module], ids=["nnx", "linen"])
@each_case
def test_modules(case: Case, module: Callable[[Case], Forward], dtype: Any) -> None:
    check(case, dtype, module(case))


def test_some_covers_every_pair_of_settings() -> None:
    """The sub-table for modules and half precision leaves out no pair of settings of two columns."""

    def columns(case: Case) -> tuple:
        c = case.config
        return (
            c.num_layers,
            c.bias,
            c.bidirectional,
            c.batch_first,
            c.proj_size,
            case.ragged,
            case.with_state,
        )

    def pairs(cases: list[Case]) -> set:
        rows = [columns(case) for case in cases]
        return {(a, b, row[a], row[b]) for row in rows for a in range(7) for b in range(a)}

    assert pairs(SOME) == pairs(CASES)
