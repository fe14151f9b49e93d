"""What the tests of inference share: weights, sequences, and a count of compilations by JAX itself."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxlstm import LSTMConfig, init_params

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_compilations = [0]


def _listen(event: str, duration: float, **details: Any) -> None:
    _compilations[0] += event == COMPILE_EVENT


jax.monitoring.register_event_duration_secs_listener(_listen)


def compilations() -> int:
    """How many programs JAX has compiled in this process."""
    return _compilations[0]


def weights(config: LSTMConfig, dtype: Any = np.float32, seed: int = 0) -> dict[str, jax.Array]:
    """Parameters large enough that the gates leave 1/2."""
    params = init_params(jax.random.key(seed), config, dtype=dtype)
    return {name: 2 * leaf for name, leaf in params.items()}


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
