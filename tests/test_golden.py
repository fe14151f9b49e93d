"""Outputs that a public PyTorch notebook printed, to four decimals, reproduced from torch's seed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxlstm import LSTMConfig, lstm

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
HALF_OF_THE_LAST_DECIMAL = 0.5e-4 + 1e-9


def assert_printed(actual: Any, printed: list) -> None:
    assert np.shape(actual) == np.shape(printed)
    np.testing.assert_allclose(actual, printed, rtol=0, atol=HALF_OF_THE_LAST_DECIMAL)


def params_of(module: torch.nn.LSTM) -> dict[str, jax.Array]:
    return {name: jnp.asarray(leaf.numpy()) for name, leaf in module.state_dict().items()}


def test_time_major() -> None:
    golden = GOLDEN["time_major"]
    torch.manual_seed(golden["torch_manual_seed"])
    params = params_of(torch.nn.LSTM(**golden["constructor"]))
    config = LSTMConfig(**golden["constructor"])
    outputs, (h_n, c_n) = jax.jit(partial(lstm, config=config))(params, jnp.array(golden["input"]))
    gate_i = params["weight_hh_l0"][: config.hidden_size]
    assert_printed(gate_i, golden["weight_hh_l0_gate_i"])
    assert_printed(outputs, golden["output"])
    assert_printed(h_n, golden["h_n"])
    assert_printed(c_n, golden["c_n"])


def test_batch_first_with_initial_state() -> None:
    golden = GOLDEN["batch_first_with_initial_state"]
    torch.manual_seed(golden["torch_manual_seed"])
    params = params_of(torch.nn.LSTM(**golden["constructor"]))
    inputs, h_0, c_0 = (
        jnp.asarray(torch.randn(np.shape(golden[name])).numpy()) for name in ("input", "h_0", "c_0")
    )
    assert_printed(inputs, golden["input"])
    assert_printed(h_0, golden["h_0"])
    assert_printed(c_0, golden["c_0"])
    config = LSTMConfig(**golden["constructor"])
    outputs, (h_n, c_n) = jax.jit(partial(lstm, config=config))(params, inputs, (h_0, c_0))
    assert_printed(outputs, golden["output"])
    assert_printed(h_n, golden["h_n"])
    assert_printed(c_n, golden["c_n"])
