"""Weights, inputs, reference results and a count of compilations for the tests of inference."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import LSTMConfig, lstm, param_shapes
from jaxlstm.layer.config import LayerConfig
from jaxlstm.layer.params import init_bound

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_compilations = [0]


def _count_compilation(event: str, duration_secs: float, **kwargs: Any) -> None:
    _compilations[0] += event == COMPILE_EVENT


jax.monitoring.register_event_duration_secs_listener(_count_compilation)


def compilations() -> int:
    """Return the number of programs that JAX has compiled in this process."""
    return _compilations[0]


def random_params(
    config: LayerConfig, seed: int = 0, *, scale: float = 1.0, dtype: Any = np.float32
) -> dict[str, np.ndarray]:
    """Return parameters from torch's initial distribution, times a scale."""
    rng, bound = np.random.default_rng(seed), scale * init_bound(config)
    return {name: rng.uniform(-bound, bound, s).astype(dtype) for name, s in param_shapes(config).items()}


def weights(config: LayerConfig, dtype: Any = np.float32, seed: int = 0) -> dict[str, jax.Array]:
    """Return random parameters, twice as large as torch's, which move the gates away from 1/2."""
    params = random_params(config, seed, scale=2.0, dtype=dtype)
    return {name: jnp.asarray(array) for name, array in params.items()}


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@functools.partial(jax.jit, static_argnames="config")
def _lstm(params: Any, x: Any, state: Any, lengths: Any, config: LSTMConfig) -> Any:
    return lstm(params, x, state, config=config, seq_lengths=lengths, backend="scan")


def reference(
    params: Any, x: np.ndarray, state: Any = None, *, config: LSTMConfig, lengths: Any = None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Run the plain scan on a batch, padded to one shape so that each config is compiled once."""
    axis = 1 if config.batch_first else 0
    time, batch = x.shape[axis], x.shape[1 - axis]
    lengths = np.full(batch, time) if lengths is None else lengths
    state = state or tuple(np.zeros(s, x.dtype) for s in config.state_shapes(batch))
    rows = 8 - batch
    padding = [(0, 128 - time) if k == axis else (0, rows) if k < 2 else (0, 0) for k in range(3)]
    padded_state = tuple(np.pad(leaf, ((0, 0), (0, rows), (0, 0))) for leaf in state)
    outputs, (h, c) = _lstm(params, np.pad(x, padding), padded_state, np.pad(lengths, (0, rows)), config)
    index = (slice(batch), slice(time)) if axis else (slice(time), slice(batch))
    return np.asarray(outputs)[index], (np.asarray(h)[:, :batch], np.asarray(c)[:, :batch])
