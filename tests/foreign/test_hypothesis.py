"""Random configs, shapes, lengths and states from hypothesis against torch, in float64.

Sizes are tiny because each example compiles. The examples cover combinations and edge cases: batch
sizes 0 and 1, one time step, one feature, one unit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlstm import LSTMConfig, lstm, param_shapes
from testing.bounds import assert_equal_in_float64
from testing.cases import torch_forward, torch_module

jitted_lstm = jax.jit(lstm, static_argnames="config")

EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True)
FEWER = settings(EXAMPLES, max_examples=8)


@st.composite
def configs(draw: st.DrawFn) -> LSTMConfig:
    hidden_size = draw(st.integers(1, 4))
    return LSTMConfig(
        input_size=draw(st.integers(1, 3)),
        hidden_size=hidden_size,
        num_layers=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.integers(0, hidden_size - 1)),
    )


@st.composite
def calls(draw: st.DrawFn, *, ragged: bool) -> dict[str, Any]:
    """Draw a config, weights, inputs (ragged, batched or unbatched) and optionally an initial state.

    NumPy draws the numbers and lengths, because hypothesis rarely draws unequal lengths.
    """
    config = draw(configs())
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    time = draw(st.integers(2 if ragged else 1, 5))
    # None: no batch axis.
    batch = draw(st.integers(1, 4) if ragged else st.none() | st.integers(0, 4))
    shapes = [(time, batch, config.input_size), *config.state_shapes(1 if batch is None else batch)]
    if batch is None:
        shapes = [(rows, features) for rows, _, features in shapes]
    elif config.batch_first:
        shapes[0] = (batch, time, config.input_size)
    inputs, h_0, c_0 = (random.normal(size=shape) for shape in shapes)
    lengths = random.integers(1, time, batch, endpoint=True).tolist() if ragged else None
    bound = config.hidden_size**-0.5
    return {
        "config": config,
        "params": {n: random.uniform(-bound, bound, s) for n, s in param_shapes(config).items()},
        "inputs": inputs,
        "state": (h_0, c_0) if draw(st.booleans()) else None,
        "lengths": lengths,
    }


def run_torch(call: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    module = torch_module(call["config"])
    params, inputs, state = jax.tree.map(torch.tensor, (call["params"], call["inputs"], call["state"]))
    module.load_state_dict(params)
    with torch.no_grad():
        return torch_forward(module, inputs, state, call["lengths"])


def run_ours(call: dict[str, Any]) -> list[jax.Array]:
    lengths = None if call["lengths"] is None else jnp.array(call["lengths"], jnp.int32)
    arrays = jax.tree.map(jnp.asarray, (call["params"], call["inputs"], call["state"]))
    outputs, (h_n, c_n) = jitted_lstm(*arrays, seq_lengths=lengths, config=call["config"])
    return [outputs, h_n, c_n]


@EXAMPLES
@given(calls(ragged=False), calls(ragged=True))
def test_equals_torch(padded: dict[str, Any], ragged: dict[str, Any]) -> None:
    with jax.enable_x64(True):
        for call in (padded, ragged):
            assert_equal_in_float64(run_ours(call), run_torch(call))


@partial(jax.jit, static_argnames="config")
def gradients(params: Any, inputs: Any, lengths: Any, *, config: LSTMConfig) -> Any:
    """Return the gradient of the sum of squares of all outputs and states with respect to the parameters."""

    def loss(params: Any) -> Any:
        outputs, (h_n, c_n) = lstm(params, inputs, config=config, seq_lengths=lengths)
        return sum(jnp.sum(array**2) for array in (outputs, h_n, c_n))

    return jax.grad(loss)(params)


@FEWER
@given(calls(ragged=True))
def test_padding_does_not_matter(call: dict[str, Any]) -> None:
    """NaN after the end of a sequence changes no bit of the results or gradients."""
    time_axis = 1 if call["config"].batch_first else 0
    inputs = np.moveaxis(call["inputs"], time_axis, 0).copy()
    for row, length in enumerate(call["lengths"]):
        inputs[length:, row] = np.nan
    dirty = call | {"inputs": np.moveaxis(inputs, 0, time_axis)}
    with jax.enable_x64(True):
        for ours, expected in zip(run_ours(dirty), run_ours(call), strict=True):
            np.testing.assert_array_equal(ours, expected)
        ours, expected = (
            gradients(
                *jax.tree.map(jnp.asarray, (c["params"], c["inputs"])),
                jnp.array(c["lengths"], jnp.int32),
                config=c["config"],
            )
            for c in (dirty, call)
        )
    for name, leaf in expected.items():
        np.testing.assert_array_equal(ours[name], leaf)
