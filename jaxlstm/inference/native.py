"""The programs of a Runner on a CPU that has the native kernel: one call of it for each layer and direction.

The kernel computes no step that is not valid, and gives a row the same bits whatever surrounds it, so that a
bucket needs no chunks of time and no shrinking batch, as :mod:`jaxlstm.inference.program` has them for
compilers. AMX gives other bits, within rounding; the rows that are there decide on that, not the bucket.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.kernels import NATIVE_DTYPES
from jaxlstm.lengths import valid_steps
from jaxlstm.params import Params, direction_params


def runs_here(device: Any, dtype: np.dtype, backend: str) -> bool:
    """Whether a Runner of this backend takes the native kernel."""
    from jaxlstm.kernels.cpu.library import library

    wanted = device.platform == "cpu" and backend in ("auto", "native")
    return wanted and dtype.name in NATIVE_DTYPES and library().handle is not None


def prepare(params: Mapping[str, Any], config: LSTMConfig) -> Any:
    """Return the packed weights of each layer and direction, in the order of the state."""
    from jaxlstm.kernels.cpu.prepared import prepare

    arrays: Any = {name: np.asarray(leaf) for name, leaf in params.items()}
    return [prepare(direction_params(arrays, config, *at)) for at in _directions(config)]


def callers(count: int) -> contextlib.AbstractContextManager[None]:
    """While this lasts, ``count`` threads run programs."""
    from jaxlstm.kernels.cpu import prepared

    return prepared.callers(count)


def computed_steps(lengths: np.ndarray) -> int:
    """Time steps that the kernel computes for rows of these lengths: each up to the last row that has it."""
    return int(np.maximum.accumulate(lengths[::-1]).sum())


def forward(
    weights: Params | list[jax.Array],
    inputs: jax.Array,
    h_0: jax.Array,
    c_0: jax.Array,
    lengths: jax.Array,
    *,
    config: LSTMConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As :func:`jaxlstm.inference.program.forward`, of what :func:`prepare` made of the params."""
    return _layers(weights, inputs, h_0, c_0, lengths, config)


def step(
    weights: Params | list[jax.Array],
    inputs: jax.Array,
    h: jax.Array,
    c: jax.Array,
    active: jax.Array | None = None,
    *,
    config: LSTMConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As :func:`jaxlstm.inference.program.step`."""
    outputs, h, c = _layers(weights, inputs[None], h, c, active, config)
    return outputs[0], h, c


def _layers(
    weights: Params | list[jax.Array],
    x: jax.Array,
    h_0: jax.Array,
    c_0: jax.Array,
    lengths: jax.Array | None,
    config: LSTMConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    from jaxlstm.kernels.cpu import ffi, prepared

    final, outputs = [], []
    for slot, (layer, direction) in enumerate(_directions(config)):
        state, reverse = LSTMState(h_0[slot], c_0[slot]), direction == 1
        if isinstance(weights, list):
            y, last = prepared.run(weights[slot], x, state, lengths, reverse=reverse)
        else:
            matrices = direction_params(weights, config, layer, direction)
            valid = None if lengths is None else valid_steps(lengths, x.shape[0])
            static = {"reverse": reverse, "precision": None}
            y, last = ffi.KERNELS.run(matrices, x, state, valid, **static)
        final.append(last)
        outputs.append(y)
        if len(outputs) == config.num_directions:
            x, outputs = jnp.concatenate(outputs, axis=-1), []
    return x, jnp.stack([state.h for state in final]), jnp.stack([state.c for state in final])


def _directions(config: LSTMConfig) -> list[tuple[int, int]]:
    """Layer and direction of each slot of the state."""
    layers, directions = range(config.num_layers), range(config.num_directions)
    return [(layer, direction) for layer in layers for direction in directions]
