"""What a Runner accepts, checked on the host: nothing here starts a computation or compiles one."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.precision import DTYPES, as_float_array


def positive(name: str, value: Any) -> int:
    """``value`` as an int above zero."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def without_padding(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(time, batch, features) with zeros behind each length, where there may be anything, even NaN."""
    if lengths.min() == len(x):
        return x
    inside = np.arange(len(x))[:, None] < lengths
    return np.where(inside[:, :, None], x, np.zeros((), x.dtype))


def one_device(device: Any) -> Any:
    """``device``, or JAX's default one if it is None."""
    if device is None:
        config: Any = jax.config
        device = config.jax_default_device
        if device is None or isinstance(device, str):  # a platform
            own = jax.local_devices(backend=device)  # a process runs on no other's
            return own[0]
    if not isinstance(device, jax.Device):
        raise TypeError(
            f"device must be one device, as jax.devices() lists them, or None; got {device!r}, "
            f"a {type(device).__name__}. For several devices see jaxlstm.inference.shard"
        )
    if device not in jax.local_devices(backend=device.platform):
        raise ValueError(
            f"device {device} belongs to process {device.process_index} and this is process "
            f"{jax.process_index()}; take one of jax.local_devices()"
        )
    return device


def host_array(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """``value`` on the host, of ``dtype``; an error if it is of another, or is no more."""
    if isinstance(value, jax.Array):
        if value.is_deleted():
            raise ValueError(
                f"{name} was given away: a jitted call to which it was donated has overwritten it. "
                "Keep a copy, as numpy.array(x) makes one, before such a call"
            )
        if not value.is_fully_addressable:
            raise ValueError(
                f"{name} lies on devices of other processes, {value.sharding}; "
                "gather it first, or use jaxlstm.inference.shard"
            )
    elif not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy or JAX array, got {type(value).__name__}")
    if value.dtype != dtype:
        other = f", or compile a Runner with dtype={str(value.dtype)!r}"
        raise TypeError(
            f"{name} must be {dtype}, the dtype of this Runner; got {value.dtype}. Cast it with "
            f".astype{other if value.dtype in DTYPES else ''}"
        )
    return np.asarray(value)


def time_major_inputs(inputs: Any, config: LSTMConfig, dtype: np.dtype) -> tuple[np.ndarray, bool]:
    """The inputs as (time, batch, input_size), and whether they came without a batch axis."""
    x = host_array("inputs", inputs, dtype)
    axes = "(batch, time, {0})" if config.batch_first else "(time, batch, {0})"
    if x.ndim not in (2, 3) or x.shape[-1] != config.input_size:
        raise ValueError(
            f"inputs must have shape {axes.format(config.input_size)}, or (time, {config.input_size}) "
            f"for one sequence alone; got {x.shape}"
        )
    unbatched = x.ndim == 2
    if unbatched:
        x = x[:, None]
    elif config.batch_first:
        x = x.swapaxes(0, 1)
    if 0 in x.shape:
        raise ValueError(f"inputs must have at least one sequence and one step, got {inputs.shape}")
    return x, unbatched


def host_state(
    state: Any, config: LSTMConfig, batch: int, dtype: np.dtype, unbatched: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(h, c) on the host, checked, with a batch axis."""
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise TypeError(
            f"the state must be a pair (h, c), as in torch; got {type(state).__name__}"
            + (f" of {len(state)}" if isinstance(state, (tuple, list)) else "")
        )
    leaves = []
    for name, leaf, shape in zip(("h_0", "c_0"), state, config.state_shapes(batch), strict=True):
        array = host_array(name, leaf, dtype)
        wanted = shape[::2] if unbatched else shape
        if array.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
        leaves.append(array.reshape(shape))
    return leaves[0], leaves[1]


def host_lengths(lengths: Any, batch: int, time: int, least: int = 1) -> np.ndarray:
    """int32 (batch,): ``lengths``, or ``time`` for each sequence if None."""
    if lengths is None:
        return np.full(batch, time, np.int32)
    array = np.asarray(lengths)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"seq_lengths must be integers, got {array.dtype}; cast with .astype(int)")
    array = array.reshape(-1) if array.ndim == 0 else array
    if array.shape != (batch,):
        raise ValueError(f"seq_lengths must have shape ({batch},), got {array.shape}")
    if array.min() < least or array.max() > time:
        raise ValueError(
            f"seq_lengths must be from {least} to the time steps of the inputs, {time}; "
            f"got from {array.min()} to {array.max()}"
        )
    return array.astype(np.int32)


def cast_params(params: Mapping[str, Any], dtype: np.dtype) -> dict[str, jax.Array]:
    """Return the parameters as JAX arrays of ``dtype``."""
    cast = {}
    for name, leaf in params.items():
        if getattr(leaf, "dtype", None) == np.float64:
            # JAX without its 64-bit mode rejects float64 arrays, so NumPy casts them.
            leaf = leaf.astype(dtype)
        cast[name] = as_float_array(name, leaf).astype(dtype)
    return cast
