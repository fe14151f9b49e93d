"""Run the table of cases through each interface and compare values and gradients with torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from flax import nnx

import jaxlstm
from jaxlstm.check.reference import torch_precision
from testing.cases import CASES, Arrays, Case, Results, assert_matches, draw, run_torch

TORCH_DTYPES = {
    np.dtype(np.float16): torch.float16,
    np.dtype(ml_dtypes.bfloat16): torch.bfloat16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
Forward = Callable[[Any, Any, Any, Any], Any]
"""``(params, inputs, state, lengths)`` to ``(outputs, (h_n, c_n))``."""


def settings(case: Case) -> tuple[bool, ...]:
    """Return the seven settings of a case."""
    c = case.config
    return (
        c.num_layers == 2,
        c.bias,
        c.bidirectional,
        c.batch_first,
        c.proj_size > 0,
        case.ragged,
        case.with_state,
    )


def _is_in_few(case: Case) -> bool:
    a, b, c, d, e, f, g = settings(case)
    return e == a ^ b ^ c and f == b ^ c ^ d and g == a ^ c ^ d


def _is_in_fewer(case: Case) -> bool:
    a, b, c, d, e, f, g = settings(case)
    return d == a ^ b and e == a ^ c and f == b ^ c and g == a ^ b ^ c


# Fractional factorial designs: 64 of the 128 cases with every combination of any six settings, 16 cases
# with every combination of any three settings, and 8 cases with every combination of any two settings.
HALF = [case for case in CASES if sum(settings(case)) % 2 == 0]
FEW = [case for case in CASES if _is_in_few(case)]
FEWER = [case for case in CASES if _is_in_fewer(case)]


@functools.cache
def reference(case: Case, dtype: np.dtype, device: str) -> tuple[Arrays, Results, Results]:
    """Return the arrays of a case, torch's results in ``dtype``, and torch's results in float64."""
    arrays = draw(case, dtype)
    with torch_precision.pinned():
        return (
            arrays,
            run_torch(case, arrays, TORCH_DTYPES[dtype], device),
            run_torch(case, arrays, torch.float64, device),
        )


def check(
    case: Case, dtype: Any, forward: Forward, torch_device: str = "cpu", compare: Any = assert_matches
) -> None:
    """Compare the values and gradients of ``forward``, jitted, with torch."""
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
        compare({n: np.asarray(a) for n, a in results.items()}, dtype, torch_own, truth)


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
    def forward(params: Any, inputs: Any, state: Any, lengths: Any) -> Any:
        model, variables = jaxlstm.linen.LSTM.from_params(params, case.config).unbind()
        return model.apply(variables, inputs, state, seq_lengths=lengths)

    return forward
