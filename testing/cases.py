"""The table of cases: bias x bidirectional x batch_first x proj_size x num_layers x ragged x state.

Every interface runs each case, jitted, and is compared with torch: outputs, h_n, c_n, and the gradients of a
random linear functional of the three with respect to every parameter, the inputs and both initial states.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import jaxlstm
from jaxlstm import LSTMConfig
from jaxlstm.check.reference import torch_precision
from testing.inference import random_params
from testing.problems import rms

TIME, BATCH, INPUT, HIDDEN = 9, 6, 7, 16
# Unsorted; includes the shortest and the longest possible length.
LENGTHS = (4, 9, 1, 7, 9, 2)

Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One call of an LSTM."""

    config: LSTMConfig
    ragged: bool
    with_state: bool

    def __str__(self) -> str:
        c = self.config
        flags = {
            "nobias": not c.bias,
            "bi": c.bidirectional,
            "bf": c.batch_first,
            f"proj{c.proj_size}": c.proj_size > 0,
            "ragged": self.ragged,
            "state": self.with_state,
        }
        return "-".join([f"L{c.num_layers}", *(name for name, on in flags.items() if on)])

    @property
    def lengths(self) -> np.ndarray | None:
        return np.array(LENGTHS) if self.ragged else None


def _case(
    two_layers: bool,
    bias: bool,
    bidirectional: bool,
    batch_first: bool,
    projected: bool,
    ragged: bool,
    with_state: bool,
) -> Case:
    options: Any = {"bias": bias, "bidirectional": bidirectional, "batch_first": batch_first}
    config = LSTMConfig(INPUT, HIDDEN, 2 if two_layers else 1, proj_size=5 if projected else 0, **options)
    return Case(config, ragged, with_state)


_OFF_FIRST, _ON_FIRST = (False, True), (True, False)
_SETTINGS = [
    *itertools.product(_OFF_FIRST, _ON_FIRST, _ON_FIRST, _ON_FIRST, _OFF_FIRST, _ON_FIRST, _ON_FIRST)
]
CASES = [_case(*settings) for settings in _SETTINGS]

# Fractional factorial designs: 64 of the 128 cases with every combination of any six settings, 16 cases
# with every combination of any three settings, and 8 cases with every combination of any two settings.
HALF = [_case(*settings) for settings in _SETTINGS if sum(settings) % 2 == 0]
FEW = [
    _case(a, b, c, d, a ^ b ^ c, b ^ c ^ d, a ^ c ^ d)
    for a, b, c, d in itertools.product(_OFF_FIRST, repeat=4)
]
FEWER = [
    _case(a, b, c, a ^ b, a ^ c, b ^ c, a ^ b ^ c) for a, b, c in itertools.product(_OFF_FIRST, repeat=3)
]


@dataclass(frozen=True)
class Arrays:
    """Inputs of a case, drawn in float64 and rounded to the dtype of the test."""

    params: Results
    inputs: np.ndarray
    state: tuple[np.ndarray, np.ndarray] | None
    cotangents: tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(case: Case, dtype: Any, seed: int = 0) -> Arrays:
    """Draw random arrays for a case. Weights of twice torch's range move the gates away from 1/2."""
    rng = np.random.default_rng(seed)
    config = case.config
    axes = (BATCH, TIME) if config.batch_first else (TIME, BATCH)
    h_shape, c_shape = config.state_shapes(BATCH)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    return Arrays(
        params=random_params(config, seed, scale=2.0, dtype=dtype),
        inputs=normal(*axes, INPUT),
        state=(normal(*h_shape), normal(*c_shape)) if case.with_state else None,
        cotangents=(normal(*axes, config.output_size), normal(*h_shape), normal(*c_shape)),
    )


def torch_forward(
    module: torch.nn.LSTM, inputs: torch.Tensor, state: Any, lengths: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return outputs, h_n and c_n of a module, ragged if there are lengths."""
    if lengths is None:
        outputs, (h_n, c_n) = module(inputs, state)
        return outputs, h_n, c_n
    batch_first, time = module.batch_first, inputs.shape[1 if module.batch_first else 0]
    packed = pack_padded_sequence(inputs, torch.tensor(lengths), batch_first, enforce_sorted=False)
    packed_outputs, (h_n, c_n) = module(packed, state)
    outputs, _ = pad_packed_sequence(packed_outputs, batch_first, total_length=time)
    return outputs, h_n, c_n


def run_torch(case: Case, arrays: Arrays, dtype: torch.dtype, device: str = "cpu") -> Results:
    """Run torch in ``dtype``; return its results as float64 arrays."""

    def tensor(array: np.ndarray, grad: bool = True) -> torch.Tensor:
        return torch.tensor(array.astype(np.float64)).to(device, dtype).requires_grad_(grad)

    module = torch.nn.LSTM(**asdict(case.config), dtype=dtype, device=device)
    module.load_state_dict({name: tensor(p, False) for name, p in arrays.params.items()})
    inputs = tensor(arrays.inputs)
    state = None if arrays.state is None else tuple(tensor(s) for s in arrays.state)
    outputs, h_n, c_n = torch_forward(module, inputs, state, case.lengths)
    cotangents = [tensor(c, False) for c in arrays.cotangents]
    torch.autograd.backward((outputs, h_n, c_n), cotangents)
    results = {"outputs": outputs, "h_n": h_n, "c_n": c_n, "d inputs": inputs.grad}
    results |= {f"d {name}": p.grad for name, p in module.named_parameters()}
    if state is not None:
        results |= {"d h_0": state[0].grad, "d c_0": state[1].grad}
    return {name: t.detach().double().cpu().numpy() for name, t in results.items()}


def assert_matches(actual: Results, dtype: Any, torch_own: Results, truth: Results) -> None:
    """Assert the documented agreement with torch.

    float64: an absolute difference of at most 1e-14; for gradients larger than 1, relative to the
    largest. Other dtypes: an RMS error against float64 of at most twice torch's own error in the
    same dtype, pooled over all values and over all gradients, with each array in units of its RMS.
    """
    assert actual.keys() == truth.keys()
    for name, array in actual.items():
        assert array.shape == truth[name].shape, name
        assert array.dtype == dtype, name
    wide = {name: np.asarray(array, np.float64) for name, array in actual.items()}
    if dtype == np.float64:
        for name, array in wide.items():
            largest = np.abs(truth[name]).max() if name.startswith("d ") else 1.0
            allowed = 1e-14 * max(1.0, largest)
            np.testing.assert_allclose(array, truth[name], rtol=0, atol=allowed, err_msg=name)
        return
    for gradients in (False, True):
        ours, theirs = (pooled_error(r, truth, gradients) for r in (wide, torch_own))
        kind = "gradients" if gradients else "values"
        assert ours <= 2 * theirs, f"{kind}: RMS error {ours:.2e}, torch's own error {theirs:.2e}"


def pooled_error(results: Results, truth: Results, gradients: bool) -> float:
    """Return the RMS error of all values or of all gradients, each array in units of its RMS."""
    return rms(
        np.concatenate(
            [
                (np.asarray(results[name], np.float64) - exact).ravel() / max(rms(exact, 0), 1e-30)
                for name, exact in truth.items()
                if name.startswith("d ") == gradients
            ]
        ),
        0,
    )


Forward = Callable[[Any, Any, Any, Any], Any]
"""``(params, inputs, state, lengths)`` to ``(outputs, (h_n, c_n))``."""


@functools.cache
def reference(case: Case, dtype: np.dtype, device: str) -> tuple[Arrays, Results, Results]:
    """Return the arrays of a case, torch's results in ``dtype``, and torch's results in float64."""
    arrays = draw(case, dtype)
    with torch_precision.pinned():
        return (
            arrays,
            run_torch(case, arrays, getattr(torch, dtype.name), device),
            run_torch(case, arrays, torch.float64, device),
        )


def check(case: Case, dtype: Any, forward: Forward, torch_device: str = "cpu") -> None:
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
        assert_matches({n: np.asarray(a) for n, a in results.items()}, dtype, torch_own, truth)


def functional(case: Case, backend: str = "auto") -> Forward:
    return lambda params, inputs, state, lengths: jaxlstm.lstm(
        params, inputs, state, config=case.config, seq_lengths=lengths, backend=backend
    )


def nnx_module(case: Case) -> Forward:
    def forward(params: Any, inputs: Any, state: Any, lengths: Any) -> Any:
        graph, variables = nnx.split(jaxlstm.nnx.LSTM.from_params(params, case.config))
        return nnx.merge(graph, variables)(inputs, state, seq_lengths=lengths)

    return forward


def linen_module(case: Case) -> Forward:
    def forward(params: Any, inputs: Any, state: Any, lengths: Any) -> Any:
        model, variables = jaxlstm.linen.LSTM.from_params(params, case.config).unbind()
        return model.apply(variables, inputs, state, seq_lengths=lengths)

    return forward
