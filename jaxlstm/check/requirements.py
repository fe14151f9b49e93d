"""Validation of the arguments of a check."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.torch_tensors import tensor_to_numpy
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.torch_lstm import TorchLSTM
from jaxlstm.check.subjects.port import Port, own_port
from jaxlstm.layer.config import LSTMConfig, require_config
from jaxlstm.layer.params import check_params, init_bound, param_shapes
from jaxlstm.layer.precision import DTYPES

REFERENCES: dict[str, type[OracleLSTM]] = {"torch": TorchLSTM, "oracle": OracleLSTM}


def require_seed(seed: int) -> int:
    """Return the seed, or raise ValueError if NumPy's generators reject it."""
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    return seed


def require_port(
    port: Callable[..., Any] | None,
    params: Mapping[str, Any] | None,
    config: LSTMConfig,
    seed: int,
    precision: str | None,
) -> Port:
    """Return a port, or jaxlstm's own layer for None, with its parameters as NumPy arrays in torch's order.

    If ``params`` is None, draw random parameters. This requires a port with an argument named ``params``.
    """
    call = own_port(require_config(config)) if port is None else port
    subject = Port.of(call, {}, require_config(config), require_precision(precision))
    rng = np.random.default_rng(require_seed(seed))
    if params is not None:
        check_params(params, config)
        subject.params = {name: require_numbers(name, params[name]) for name in param_shapes(config)}
        return subject
    if not subject.takes_params:
        raise TypeError(
            "params must be the weights that the port holds, under torch's names; None is allowed only "
            "for a port with an argument named params"
        )
    bound = init_bound(config)
    subject.params = {
        name: rng.uniform(-bound, bound, shape).astype(np.float32)
        for name, shape in param_shapes(config).items()
    }
    return subject


def require_numbers(name: str, value: Any) -> np.ndarray:
    """Return a number, an array or a torch tensor as a NumPy array of real numbers."""
    array = tensor_to_numpy(value) if hasattr(value, "detach") else np.asarray(value)
    if array.dtype.kind not in "fiub" and not jnp.issubdtype(array.dtype, np.floating):
        raise TypeError(
            f"{name} must be an array of real numbers, got {type(value).__name__} of dtype {array.dtype}"
        )
    return array


def require_dtype(dtype: Any) -> np.dtype:
    """Return the dtype, or raise ValueError if an LSTM cannot have it."""
    with contextlib.suppress(TypeError):  # Not the name of a dtype.
        if jnp.dtype(dtype) in DTYPES:
            return jnp.dtype(dtype)
    raise ValueError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")


def require_precision(precision: str | None) -> str | None:
    """Return the precision of matrix products, or raise ValueError if JAX does not know it."""
    try:
        with jax.default_matmul_precision(precision):
            return precision
    except ValueError:
        raise ValueError(
            "precision must be None, 'highest', 'high', 'default' or another value that "
            f"jax.default_matmul_precision accepts, got {precision!r}"
        ) from None


def require_references(
    against: Sequence[str], params: Mapping[str, Any], config: LSTMConfig
) -> tuple[OracleLSTM, ...]:
    """Return the requested references that are available. The oracle, if it is among them, is the last.

    Raise ValueError if there is none, or for an unknown name.
    """
    if isinstance(against, str):
        against = (against,)
    if not against or any(name not in REFERENCES for name in against):
        raise ValueError(f"against must name one or both of {tuple(REFERENCES)}, got {tuple(against)}")
    absent = () if torch_lstm.is_available() else ("torch",)
    available = tuple(name for name in REFERENCES if name in against and name not in absent)
    if not available:
        raise ValueError("against names only torch, which is not installed; install torch or add 'oracle'")
    return tuple(REFERENCES[name](params, config) for name in available)


def require_tolerance(rtol: float | None, atol: float | None) -> tuple[float, float] | None:
    """Return (rtol, atol), or None if both are None.

    Raise ValueError if only one is None, or if one is negative or not finite.
    """
    if (rtol is None) != (atol is None):
        given, missing = ("rtol", "atol") if atol is None else ("atol", "rtol")
        raise ValueError(f"{given} was given without {missing}; give both or neither")
    if rtol is None or atol is None:
        return None
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    return rtol, atol
