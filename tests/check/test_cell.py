"""verify_cell: a single step of our cells and of foreign ones, right and wrong."""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm.check import verify_cell
from jaxlstm.check.exceptions import PortError
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from testing.verification import random_params

CONFIG = LSTMCellConfig(3, 4)
PARAMS = random_params(CONFIG)


@pytest.mark.slow
def test_our_cell():
    step = jax.jit(lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state))
    report = verify_cell(step, PARAMS, CONFIG)
    assert report.ok, str(report)
    assert report.title == "<lambda> in float32"
    assert {item.name for item in report.items if item.ok is None} == {"ragged lengths"}


def test_foreign_cell_with_foreign_params():
    """flax.linen's cell has transposed kernels per gate, one bias, and the carry (c, h)."""
    cell = flax.linen.LSTMCell(CONFIG.hidden_size)

    def tree(params):
        found = {}
        for name, ih, hh, bias in zip(
            "ifgo",
            jnp.split(params["weight_ih"], 4),
            jnp.split(params["weight_hh"], 4),
            jnp.split(params["bias_ih"] + params["bias_hh"], 4),
            strict=True,
        ):
            found[f"i{name}"] = {"kernel": ih.T}
            found[f"h{name}"] = {"kernel": hh.T, "bias": bias}
        return {"params": found}

    def step(x, state, *, params):
        (c, h), _ = cell.apply(tree(params), (state[1], state[0]), x)
        return h, c

    @jax.jit
    def wrong(x, state, params):
        (c, h), _ = cell.apply(tree(params), state, x)
        return h, c

    class Wrong:
        def __call__(self, x, state, *, params):
            return wrong(x, state, params)

    report = verify_cell(jax.jit(step), PARAMS, CONFIG, gradients=False)
    assert report.ok, str(report)
    report = verify_cell(Wrong(), PARAMS, CONFIG, gradients=False)
    assert not report.ok
    assert report.title == "Wrong in float32"
    assert "h and c are swapped at every step" in "\n".join(report.diagnosis)


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        (
            lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state)[::-1],
            "every step returns (c, h) instead of (h, c)",
        ),
        (
            lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state[::-1])[::-1],
            "every step takes and returns (c, h) (as in Flax) instead of (h, c)",
        ),
    ],
)
def test_order_of_the_state(step, cause):
    report = verify_cell(jax.jit(step), PARAMS, CONFIG, gradients=False)
    assert report.diagnosis[0].startswith(f"matches an LSTM in which {cause}, to within ")


def test_rejects_other_objects():
    with pytest.raises(TypeError, match="config must be"):
        verify_cell(lambda x, s: s, PARAMS, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one layer and one direction"):
        verify_cell(lambda x, s: s, {}, LSTMConfig(3, 4, num_layers=2))
    with pytest.raises(ValueError, match="one layer and one direction"):
        verify_cell(lambda x, s: s, {}, LSTMConfig(3, 4, bidirectional=True))
    with pytest.raises(PortError, match="step must be callable"):
        verify_cell(3, PARAMS, CONFIG)  # type: ignore[arg-type]
    with pytest.raises(PortError, match="step must return a pair"):
        verify_cell(lambda x, s: np.float32(1), PARAMS, CONFIG, gradients=False)
