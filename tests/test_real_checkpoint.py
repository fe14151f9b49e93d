"""The main job on weights that others trained: BeatNet's LSTM, from its wheel on the package index.

BeatNet 1.1.3, CC BY 4.0: M. Heydari, F. Cwitkowitz and Z. Duan, ISMIR 2021.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxlstm
from tests.cli.test_commands import jaxlstm_command
from tests.wheels import fetch_pinned

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def beatnet() -> Path:
    return fetch_pinned("beatnet", "BeatNet/models/model_1_weights.pt")


def test_inspect_port_check(beatnet: Path, tmp_path: Path) -> None:
    found = json.loads(jaxlstm_command("inspect", beatnet, "--json").stdout)
    (lstm,) = found["lstms"]
    assert lstm["prefix"] == "lstm."
    assert lstm["parameters"] == 362_400
    ported = tmp_path / "beatnet.safetensors"
    done = jaxlstm_command("port", beatnet, "-o", ported, "--batch-first")
    assert done.returncode == 0, done.stderr
    params, config = jaxlstm.load(ported)
    assert config == jaxlstm.LSTMConfig(150, 150, num_layers=2, batch_first=True)
    weights = torch.load(beatnet, weights_only=True)
    for name, value in params.items():
        assert np.asarray(value).tobytes() == weights[f"lstm.{name}"].numpy().tobytes(), name
    done = jaxlstm_command("check", ported, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"] is True
    assert [report["dtype"] for report in verdict["reports"]] == ["float32", "float64"]


def test_state_of_one_call_fed_to_the_next_is_one_long_call(beatnet: Path) -> None:
    """As BeatNet runs it: frame by frame, the state kept between calls."""
    params, config = jaxlstm.load(beatnet, batch_first=True)
    module = torch.nn.LSTM(150, 150, 2, batch_first=True)
    weights = torch.load(beatnet, weights_only=True)
    module.load_state_dict(
        {n.removeprefix("lstm."): t for n, t in weights.items() if n.startswith("lstm.")}
    )
    x = np.random.default_rng(0).standard_normal((1, 30, 150)).astype(np.float32)
    run = jax.jit(lambda x, state: jaxlstm.lstm(params, x, state, config=config))
    zeros = jaxlstm.LSTMState(jnp.zeros((2, 1, 150)), jnp.zeros((2, 1, 150)))
    whole, final = run(x, zeros)
    state, frames = zeros, []
    for t in range(30):
        y, state = run(x[:, t : t + 1], state)
        frames.append(y)
    np.testing.assert_allclose(np.concatenate(frames, axis=1), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.c, final.c, rtol=0, atol=2e-6)
    with torch.no_grad():
        wanted, (_, c_n) = module(torch.tensor(x))
    np.testing.assert_allclose(whole, wanted.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(final.c, c_n.numpy(), rtol=0, atol=2e-6)
