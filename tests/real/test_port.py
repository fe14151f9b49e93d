"""Real LSTMs, jitted here: as exact as torch on inputs like their own, and the checker's verdict holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig
from jaxlstm.check import verify, verify_cell
from tests.support.bounds import assert_as_exact_as_torch
from tests.support.real_files import BY_LABEL, EACH_LSTM, Real

pytestmark = pytest.mark.network

TIME, BATCH = 40, 3
Arrays = tuple[np.ndarray, ...]

each_lstm = pytest.mark.parametrize(
    ("real", "prefix"), EACH_LSTM, ids=[f"{real.label}-{prefix}" for real, prefix in EACH_LSTM]
)


def frames(real: Real, input_size: int, rng: np.random.Generator) -> np.ndarray:
    """What the layer before gives, (time, batch, input_size): embeddings, spectra or features."""
    shape = (TIME, BATCH, input_size)
    if real.package == "g2pM":  # of random Chinese characters, by the table in the file
        table = np.asarray(jaxlstm.read_checkpoint(real.path())["embedding.weight"])
        return table[rng.integers(len(table), size=shape[:2])]
    if real.package == "resemblyzer":  # the energies of a mel spectrogram: many small, few large
        return rng.gamma(0.3, 0.3, shape).astype(np.float32)
    normal = rng.standard_normal(shape).astype(np.float32)
    return np.maximum(normal, 0) if real.package == "silero-vad" else normal  # its encoder ends so


@each_lstm
def test_as_exact_as_torch_in_float32(real: Real, prefix: str) -> None:
    """RMS error to torch in float64 at most twice that of torch in float32."""
    params, config = jaxlstm.load(real.path(), prefix=prefix)
    rng = np.random.default_rng(0)
    x = frames(real, config.input_size, rng)
    state = tuple(
        rng.uniform(-0.5, 0.5, shape).astype(np.float32) for shape in config.state_shapes(BATCH)
    )
    ours, theirs = (run_cell, torch_cell) if is_cell(config) else (run_lstm, torch_lstm)
    weights = {
        name.removeprefix(prefix): torch.as_tensor(tensor)
        for name, tensor in real.read(real.path()).items()
        if name.startswith(prefix)
    }
    module = theirs(config, weights)
    float32, float64 = module(x, state, torch.float32), module(x, state, torch.float64)
    found = ours(params, config, x, state)
    assert_as_exact_as_torch(found, float32, float64, factor=2)
    assert max(np.abs(h).max() for h in float64) > 0.3  # the numbers say something


def slow_where_large() -> list[Any]:
    """Each LSTM, those of a minute and more with the slow tests."""
    large = ("resemblyzer", "beatnet", "beatnet-module", "silero-torchscript")
    return [
        pytest.param(
            real,
            prefix,
            id=f"{real.label}-{prefix}",
            marks=[pytest.mark.slow] if real.label in large else [],
        )
        for real, prefix in EACH_LSTM
    ]


@pytest.mark.parametrize(("real", "prefix"), slow_where_large())
def test_the_verdict_holds(real: Real, prefix: str) -> None:
    params, config = jaxlstm.load(real.path(), prefix=prefix)
    numpy_params = {name: np.asarray(array) for name, array in params.items()}
    if is_cell(config):
        step = jax.jit(lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state))

        def cell(x: Any, state: Any, *, params: Any) -> Any:
            return step(x, state, params=params)

        report = verify_cell(cell, numpy_params, config, gradients=False)
    else:
        report = verify(None, numpy_params, config, gradients=False)
    assert report.ok, str(report)
    statuses = {item.name: item.status for item in report.items}
    assert statuses["float64 semantics against torch"] == "ok"
    assert statuses["step residual"] == "ok"


def is_cell(config: LSTMConfig) -> bool:
    return isinstance(config, LSTMCellConfig)


def run_lstm(params: Any, config: LSTMConfig, x: np.ndarray, state: Any) -> Arrays:
    run = jax.jit(lambda x, state: jaxlstm.lstm(params, x, state, config=config))
    outputs, final = run(x.swapaxes(0, 1) if config.batch_first else x, state)
    outputs = np.asarray(outputs)
    return (outputs.swapaxes(0, 1) if config.batch_first else outputs, *map(np.asarray, final))


def run_cell(params: Any, config: LSTMConfig, x: np.ndarray, state: Any) -> Arrays:
    step = jax.jit(lambda x, state: jaxlstm.lstm_cell(params, x, state))
    h, c = (jnp.asarray(array[0]) for array in state)
    outputs = []
    for frame in x:
        h, c = step(frame, (h, c))
        outputs.append(np.asarray(h))
    return np.stack(outputs), np.asarray(h), np.asarray(c)


def torch_lstm(config: LSTMConfig, weights: dict[str, torch.Tensor]) -> Any:
    arguments = {**dataclasses.asdict(config), "batch_first": False}
    module = torch.nn.LSTM(**arguments)
    module.load_state_dict(weights, strict=True)

    def run(x: np.ndarray, state: Any, dtype: torch.dtype) -> Arrays:
        with torch.no_grad():
            initial = tuple(torch.tensor(array, dtype=dtype) for array in state)
            outputs, final = module.to(dtype)(torch.tensor(x, dtype=dtype), initial)
        return tuple(tensor.numpy() for tensor in (outputs, *final))

    return run


def torch_cell(config: LSTMConfig, weights: dict[str, torch.Tensor]) -> Any:
    module = torch.nn.LSTMCell(config.input_size, config.hidden_size)
    module.load_state_dict(weights, strict=True)

    def run(x: np.ndarray, state: Any, dtype: torch.dtype) -> Arrays:
        with torch.no_grad():
            h, c = (torch.tensor(array[0], dtype=dtype) for array in state)
            outputs = []
            for frame in torch.tensor(x, dtype=dtype):
                h, c = module.to(dtype)(frame, (h, c))
                outputs.append(h)
        return torch.stack(outputs).numpy(), h.numpy(), c.numpy()

    return run


def test_state_of_one_call_fed_to_the_next_is_one_long_call() -> None:
    """As BeatNet runs it: frame by frame, the state kept between calls."""
    real = BY_LABEL["beatnet"]
    params, config = jaxlstm.load(real.path(), batch_first=True)
    x = np.random.default_rng(0).standard_normal((1, 30, 150)).astype(np.float32)
    run = jax.jit(lambda x, state: jaxlstm.lstm(params, x, state, config=config))
    zeros = jaxlstm.LSTMState(jnp.zeros((2, 1, 150)), jnp.zeros((2, 1, 150)))
    whole, final = run(x, zeros)
    state, pieces = zeros, []
    for t in range(30):
        y, state = run(x[:, t : t + 1], state)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.c, final.c, rtol=0, atol=2e-6)
