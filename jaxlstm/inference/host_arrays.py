"""Checks of a Runner's arguments on the host. They start no computation and compile nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxlstm._shared.torch_tensors import kind_of
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from jaxlstm.layer.precision import DTYPES, as_float_array
from jaxlstm.layer.ragged import check_lengths
from jaxlstm.layer.validate import check_state


def time_major(config: LSTMConfig) -> LSTMConfig:
    """Return the config of the same LSTM over (time, batch, feature), without dropout."""
    if isinstance(config, LSTMCellConfig):
        return config
    return dataclasses.replace(config, batch_first=False, dropout=0.0)


def cast_params(params: Mapping[str, Any], dtype: np.dtype) -> dict[str, jax.Array]:
    """Return the parameters as JAX arrays of ``dtype``."""
    cast = {}
    for name, leaf in params.items():
        if getattr(leaf, "dtype", None) == np.float64:
            # JAX rejects float64 unless its 64-bit mode is on, so NumPy casts these.
            leaf = leaf.astype(dtype)
        cast[name] = as_float_array(name, leaf, copy=True).astype(dtype)
    return cast


def one_device(device: Any) -> Any:
    """Return ``device``, or JAX's default device if it is None."""
    if device is None:
        config: Any = jax.config
        device = config.jax_default_device
        # The default may also be the name of a platform.
        if device is None or isinstance(device, str):
            return jax.local_devices(backend=device)[0]
    if not isinstance(device, jax.Device):
        raise TypeError(
            f"device must be a single device from jax.devices(), or None; got {device!r}, "
            f"a {type(device).__name__}. For several devices use jaxlstm.inference.shard"
        )
    if device not in jax.local_devices(backend=device.platform):
        raise ValueError(
            f"device {device} belongs to process {device.process_index}, and this is process "
            f"{jax.process_index()}; choose one of jax.local_devices()"
        )
    return device


def require_concrete(name: str, value: Any) -> None:
    """Raise a TypeError if ``value`` is a tracer: the caller runs under ``jax.jit`` or a similar function."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name} is traced by jax.jit, grad, vmap or scan, got {value.aval.str_short()}. A Runner and "
            "its streams are compiled already: call them without such a function. Inside one, use "
            "jaxlstm.lstm(params, inputs, config=config)"
        )


def checked_array(name: str, value: Any, dtype: np.dtype) -> np.ndarray | jax.Array:
    """Return ``value`` if it is a NumPy or JAX array of ``dtype`` that this process can read, or raise."""
    require_concrete(name, value)
    if isinstance(value, jax.Array):
        if value.is_deleted():
            raise ValueError(
                f"{name} was donated to a jitted call, which has overwritten it. Copy it with "
                "numpy.array(x) before such a call"
            )
        if not value.is_fully_addressable:
            raise ValueError(
                f"{name} has parts on devices of other processes, {value.sharding}; "
                "gather it first, or use jaxlstm.inference.shard"
            )
    elif not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy or JAX array, got {kind_of(value)}")
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without a mask, got a MaskedArray; replace the masked elements with "
            ".filled(), or pass seq_lengths for padding"
        )
    if value.dtype == object:
        raise TypeError(
            f"{name} must be {dtype}, the dtype of this Runner; got an array of objects. Make one array with "
            "numpy.stack, or call runner.map with a list of sequences of different lengths"
        )
    if value.dtype != dtype:
        hint = f", or compile a Runner with dtype={str(value.dtype)!r}"
        raise TypeError(
            f"{name} must be {dtype}, the dtype of this Runner; got {value.dtype}. Cast it with "
            f".astype{hint if value.dtype in DTYPES else ''}"
        )
    return value


def time_major_inputs(
    inputs: Any, config: LSTMConfig, dtype: np.dtype
) -> tuple[np.ndarray | jax.Array, bool]:
    """Return the inputs as (time, batch, input_size), and True if they had no batch axis.

    Inputs that have these axes are returned as they are, and others as a NumPy array.
    """
    x = checked_array("inputs", inputs, dtype)
    axes = "(batch, time, {0})" if config.batch_first else "(time, batch, {0})"
    if x.ndim not in (2, 3) or x.shape[-1] != config.input_size:
        raise ValueError(
            f"inputs must have shape {axes.format(config.input_size)}, or (time, {config.input_size}) "
            f"for a single sequence; got {x.shape}"
        )
    unbatched = x.ndim == 2
    if unbatched:
        x = np.asarray(x)[:, None]
    elif config.batch_first:
        x = np.asarray(x).swapaxes(0, 1)
    if 0 in x.shape:
        raise ValueError(f"inputs must have at least one sequence and one step, got {inputs.shape}")
    return x, unbatched


def host_state(
    state: Any, config: LSTMConfig, batch: int, dtype: np.dtype, unbatched: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return (h, c) as NumPy arrays with a batch axis, after a check of their shapes and dtypes."""
    shapes = config.state_shapes(batch)
    pair = check_state(state, [shape[::2] for shape in shapes] if unbatched else shapes)
    h, c = (np.asarray(checked_array(name, x, dtype)) for name, x in zip(("h_0", "c_0"), pair, strict=True))
    return h.reshape(shapes[0]), c.reshape(shapes[1])


def host_lengths(lengths: Any, batch: int, time: int, *, minimum: int = 1) -> np.ndarray:
    """Return the lengths as int32 (batch,), or ``time`` for each sequence if they are None."""
    if lengths is None:
        return np.full(batch, time, np.int32)
    require_concrete("seq_lengths", lengths)
    array = np.atleast_1d(np.asarray(lengths))
    return np.asarray(check_lengths(array, batch, time, minimum=minimum)).astype(np.int32)
