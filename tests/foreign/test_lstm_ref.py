"""``jax.experimental.rnn.lstm_ref`` as a second reference for ragged and bidirectional LSTMs.

``lstm_ref`` is batch-first, requires biases, an initial state and lengths, has no projection, and
numbers layers and directions in the order of torch's states. Its algorithm differs from ours: it
flips sequences and gathers the final states, whereas we stop updating the state at the end of each
sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.rnn import lstm_ref

from jaxlstm import LSTMConfig, init_params, lstm
from testing.bounds import assert_equal_in_float64

pytestmark = pytest.mark.usefixtures("fast_compilation")

BATCH, TIME = 4, 7
LENGTHS = {"full": [7, 7, 7, 7], "sorted": [7, 5, 2, 1], "unsorted": [3, 7, 1, 6]}


def numbered(params: dict[str, Any], name: str, config: LSTMConfig) -> dict[int, Any]:
    ends = ("", "_reverse")[: config.num_directions]
    leaves = [params[f"{name}_l{layer}{end}"] for layer in range(config.num_layers) for end in ends]
    return dict(enumerate(leaves))


def run_reference(config: LSTMConfig, params: Any, x: Any, h_0: Any, c_0: Any, lengths: Any) -> Any:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return lstm_ref(
        x,
        h_0,
        c_0,
        *(numbered(params, name, config) for name in names),
        seq_lengths=lengths,
        input_size=config.input_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        dropout=0.0,
        bidirectional=config.bidirectional,
    )


def run_ours(config: LSTMConfig, params: Any, x: Any, h_0: Any, c_0: Any, lengths: Any) -> Any:
    outputs, (h_n, c_n) = lstm(params, x, (h_0, c_0), config=config, seq_lengths=lengths)
    return outputs, h_n, c_n


@cache
def value_and_gradients(run: Callable, config: LSTMConfig) -> Callable:
    """Return a jitted function of results and gradients, cached since it serves all lengths.

    The loss weights each number differently.
    """

    def loss(*args: Any) -> Any:
        results = run(config, *args)
        weights = [jnp.cos(jnp.arange(r.size, dtype=r.dtype)).reshape(r.shape) for r in results]
        return sum(jnp.sum(w * r) for w, r in zip(weights, results, strict=True)), results

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_against_reference(num_layers: int, bidirectional: bool, lengths: list[int]) -> None:
    config = LSTMConfig(3, 5, num_layers=num_layers, bidirectional=bidirectional, batch_first=True)
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = init_params(jax.random.key(0), config, dtype=jnp.float64)
        h_shape, c_shape = config.state_shapes(BATCH)
        shapes = ((BATCH, TIME, config.input_size), h_shape, c_shape)
        args = (
            params,
            *(jnp.asarray(random.normal(size=shape)) for shape in shapes),
            jnp.array(lengths, jnp.int32),
        )
        ours, theirs = (
            jax.tree.leaves(value_and_gradients(run, config)(*args)) for run in (run_ours, run_reference)
        )
        assert_equal_in_float64(ours, theirs)
