"""Outputs that a public PyTorch notebook printed, to four decimals, reproduced from torch's seed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxlstm import LSTMConfig, lstm

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
HALF_OF_THE_LAST_DECIMAL = 0.5e-4 + 1e-9


@pytest.mark.parametrize("name", ["time_major", "batch_first_with_initial_state"])
def test_printed_numbers(name: str) -> None:
    golden = GOLDEN[name]
    torch.manual_seed(golden["torch_manual_seed"])
    module, config = torch.nn.LSTM(**golden["constructor"]), LSTMConfig(**golden["constructor"])
    params = {name: jnp.asarray(leaf.numpy()) for name, leaf in module.state_dict().items()}
    given = {"input": jnp.array(golden["input"])}
    if "h_0" in golden:  # The notebook drew the inputs and the state too.
        given = {name: torch.randn(np.shape(golden[name])).numpy() for name in ("input", "h_0", "c_0")}
    x, *state = given.values()
    outputs, (h_n, c_n) = jax.jit(partial(lstm, config=config))(params, x, tuple(state) or None)
    gate_i = params["weight_hh_l0"][: config.hidden_size]
    found = given | {"output": outputs, "h_n": h_n, "c_n": c_n, "weight_hh_l0_gate_i": gate_i}
    for key in found.keys() & golden.keys():
        assert np.shape(found[key]) == np.shape(golden[key])
        np.testing.assert_allclose(found[key], golden[key], rtol=0, atol=HALF_OF_THE_LAST_DECIMAL)
