"""Checks of one LSTM of a real checkpoint, run on whatever device JAX uses by default."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig
from jaxlstm.check import verify, verify_cell
from jaxlstm.check.cases.case import Case
from jaxlstm.check.reference.torch_lstm import TorchLSTM
from testing.bounds import assert_as_exact_as_torch
from testing.real_files import Real
from testing.verification import status

TIME, BATCH = 40, 3
Arrays = tuple[np.ndarray, ...]


def assert_real_lstm_is_as_exact_as_torch(real: Real, prefix: str) -> None:
    """The RMS error in float32, relative to torch in float64, is at most twice torch's."""
    params, config = jaxlstm.load(real.path(), prefix=prefix, batch_first=False, dropout=0.0)
    rng = np.random.default_rng(0)
    x = realistic_inputs(real, config.input_size, rng)
    h_0, c_0 = (rng.uniform(-0.5, 0.5, shape).astype(np.float32) for shape in config.state_shapes(BATCH))
    state = h_0, c_0
    weights = {
        name.removeprefix(prefix): np.asarray(tensor)
        for name, tensor in real.read(real.path()).items()
        if name.startswith(prefix)
    }
    case, torch = Case("real", {"inputs": x, "h_0": h_0, "c_0": c_0}), TorchLSTM(weights, config)
    float32, float64 = (tuple(torch.run(case, dtype).outputs.values()) for dtype in (np.float32, np.float64))
    run = run_cell if is_cell(config) else run_lstm
    assert_as_exact_as_torch(run(params, config, x, state), float32, float64, factor=2)
    assert max(np.abs(np.asarray(h)).max() for h in float64) > 0.3  # the outputs are not all close to zero


def assert_verdict_holds(real: Real, prefix: str) -> None:
    """``verify`` passes."""
    params, config = jaxlstm.load(real.path(), prefix=prefix, batch_first=False, dropout=0.0)
    numpy_params = {name: np.asarray(array) for name, array in params.items()}
    if is_cell(config):
        step = jax.jit(lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state))
        report = verify_cell(step, numpy_params, config, gradients=False)
    else:
        report = verify(None, numpy_params, config, gradients=False)
    assert report.ok, str(report)
    statuses = status(report)
    assert statuses["float64 semantics against torch"] == "ok"
    assert statuses["step residual"] == "ok"


def realistic_inputs(real: Real, input_size: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs (time, batch, input_size) like the layer's usual inputs: embeddings, spectra or features."""
    shape = (TIME, BATCH, input_size)
    if real.package == "g2pM":  # embeddings of random Chinese characters
        table = np.asarray(jaxlstm.read_checkpoint(real.path())["embedding.weight"])
        return table[rng.integers(len(table), size=shape[:2])]
    if real.package == "resemblyzer":  # mel energies: many small, few large
        return rng.gamma(0.3, 0.3, shape).astype(np.float32)
    normal = rng.standard_normal(shape).astype(np.float32)
    return np.maximum(normal, 0) if real.package == "silero-vad" else normal  # after a ReLU


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
    return np.stack(outputs), np.asarray(h)[None], np.asarray(c)[None]
