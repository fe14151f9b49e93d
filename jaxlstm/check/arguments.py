"""The arguments of a check, each required to be what it should be."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.check import torch_runner
from jaxlstm.check.comparison import require_numbers
from jaxlstm.check.port import Port
from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params, init_bound, param_shapes
from jaxlstm.precision import DTYPES

REFERENCES = ("torch", "oracle")


def require_config(config: Any) -> LSTMConfig:
    """A config, which says what the port should be."""
    if not isinstance(config, LSTMConfig):
        raise TypeError(
            f"config must be an LSTMConfig or LSTMCellConfig, got {type(config).__name__}"
        )
    return config


def require_seed(seed: int) -> int:
    """A seed that NumPy's generators take."""
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    return seed


def require_params(
    port: Any, params: Mapping[str, Any] | None, config: LSTMConfig, seed: int
) -> dict[str, np.ndarray]:
    """The parameters as NumPy arrays, in torch's order; random ones for a port that takes any."""
    if params is not None:
        check_params(params, config)
        return {name: require_numbers(name, params[name]) for name in param_shapes(config)}
    if port is not None and not Port.of(port).takes_params:
        raise TypeError(
            "params must be the weights that the port has, under torch's names; they may be left out "
            "only for a port with a parameter named params"
        )
    rng = np.random.default_rng(seed)
    bound = init_bound(config)
    return {
        name: rng.uniform(-bound, bound, shape).astype(np.float32)
        for name, shape in param_shapes(config).items()
    }


def require_dtype(dtype: Any) -> np.dtype:
    """A dtype that an LSTM can have."""
    with contextlib.suppress(TypeError):  # of a name that is none
        if jnp.dtype(dtype) in DTYPES:
            return jnp.dtype(dtype)
    raise ValueError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")


def require_precision(precision: str | None) -> str | None:
    """A name that JAX knows for the precision of products, or None."""
    try:
        with jax.default_matmul_precision(precision):
            return precision
    except ValueError:
        raise ValueError(
            "precision must be None, 'highest', 'high', 'default' or another that "
            f"jax.default_matmul_precision takes, got {precision!r}"
        ) from None


def require_references(against: Sequence[str]) -> tuple[str, ...]:
    """The references that were asked for and are here."""
    if isinstance(against, str):
        against = (against,)
    unknown = [name for name in against if name not in REFERENCES]
    if unknown or not against:
        raise ValueError(f"against must name some of {REFERENCES}, got {tuple(against)}")
    found = tuple(
        name
        for name in REFERENCES
        if name in against and (name != "torch" or torch_runner.is_available())
    )
    if not found:
        raise ValueError(
            "against asks for torch alone, and torch is not installed; install torch, or add 'oracle'"
        )
    return found
