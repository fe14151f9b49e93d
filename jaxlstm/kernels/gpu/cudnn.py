"""Whole layers by cuDNN, through :mod:`jax.experimental.rnn`: for float32, without projection.

cuDNN takes every weight of all layers in one array, all matrices first and then all biases; they are packed
into it inside the program, so that parameters keep their names. It goes batch first, and both ways.

Forward mode, derivatives of derivatives and ``jax.vmap`` are errors, since JAX knows them not for this; what
needs one of them takes ``backend="scan"``, which has the same parameters and the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.kernels.primitive import KernelPrimitive
from jaxlstm.params import direction_params
from jaxlstm.precision import Precision, level_of
from jaxlstm.stack import BetweenLayers


def run_stack(
    params: Mapping[str, Any],
    x: jax.Array,
    initial_state: LSTMState,
    lengths: jax.Array | None,
    *,
    config: LSTMConfig,
    precision: Precision,
    between_layers: BetweenLayers | None = None,
) -> tuple[jax.Array, LSTMState]:
    """Run all layers in one call, or one call per layer if ``between_layers`` is given.

    This is a :class:`jaxlstm.stack.RunStack` for float32 without projection.

    Raises:
      RuntimeError: cuDNN is not available, or does not support the config or the dtype.
    """
    require_supported(config, x.dtype)
    require_device()
    every_layer = range(config.num_layers)
    calls = [every_layer] if between_layers is None else [range(k, k + 1) for k in every_layer]
    final: list[LSTMState] = []
    for layers in calls:
        slots = slice(layers.start * config.num_directions, layers.stop * config.num_directions)
        state = LSTMState(initial_state.h[slots], initial_state.c[slots])
        x, state = _run_layers(params, x, state, lengths, config, layers, precision)
        final.append(state)
        if between_layers is not None and layers.stop < config.num_layers:
            x = between_layers(layers.start, x)
    return x, LSTMState(*(jnp.concatenate(leaves) for leaves in zip(*final, strict=True)))


def _run_layers(
    params: Mapping[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    lengths: jax.Array | None,
    config: LSTMConfig,
    layers: range,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    """Run consecutive layers in one call of cuDNN; ``initial_state`` is that of these layers."""
    time, batch, _ = inputs.shape
    steps = jnp.full((batch,), time, jnp.int32) if lengths is None else jnp.clip(lengths, 1, time)
    call: Any = rnn.lstm  # whose annotations are of another library
    outputs, h, c = call(
        inputs.swapaxes(0, 1),
        *initial_state,
        pack(params, config, layers),
        _on_cuda(steps),
        config.layer_input_size(layers.start),
        config.hidden_size,
        len(layers),
        0.0,
        config.bidirectional,
        math_of(precision),
    )
    outputs, last = outputs.swapaxes(0, 1), LSTMState(h, c)
    if lengths is None:
        return outputs, last
    # one step at least was taken in each row
    any_step = (lengths > 0)[:, None]
    kept = (jnp.where(any_step, n, o) for n, o in zip(last, initial_state, strict=True))
    return jnp.where(any_step, outputs, jnp.zeros_like(outputs)), LSTMState(*kept)


def pack(params: Mapping[str, Any], config: LSTMConfig, layers: range) -> jax.Array:
    """The parameters of these layers as :mod:`jax.experimental.rnn` wants them; no bias is one of zeros."""
    directions = [
        direction_params(params, config, layer, direction)
        for layer in layers
        for direction in range(config.num_directions)
    ]
    matrices = [p[name].ravel() for p in directions for name in ("weight_ih", "weight_hh")]
    none = jnp.zeros(4 * config.hidden_size, matrices[0].dtype)
    biases = [p.get(name, none) for p in directions for name in ("bias_ih", "bias_hh")]
    return jnp.concatenate(matrices + biases)


def math_of(precision: Precision) -> lax.Precision:
    """What cuDNN has of precisions: float32, or TF32 for everything below, as XLA does on a GPU."""
    exact = level_of(precision) == lax.Precision.HIGHEST
    return lax.Precision.HIGHEST if exact else lax.Precision.HIGH


def require_supported(config: LSTMConfig, dtype: Any) -> None:
    """Raise if there is no cuDNN for this config and dtype in JAX."""
    if config.proj_size > 0:
        raise RuntimeError(
            f"backend='cudnn' has no projection, got proj_size={config.proj_size}; use backend='auto' "
            "or 'scan'"
        )
    if dtype != jnp.float32:
        raise RuntimeError(
            f"backend='cudnn' supports float32, got {dtype}; use backend='auto' or 'scan'"
        )


def require_device() -> None:
    """Raise if this process sees no NVIDIA GPU, of which JAX asks how much memory cuDNN wants."""
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        raise RuntimeError(
            "backend='cudnn' needs an NVIDIA GPU and pip install 'jax[cuda12]', and JAX sees no such device "
            "here; use backend='auto' or 'scan'"
        ) from error


# A program for another device than the one that was found is told so, and not by an operation's missing rule.
_on_cuda = KernelPrimitive(
    "lstm_cudnn_lengths",
    plain=lambda x: x,
    kernels={"cuda": lambda x: x},
    shapes=lambda x: x,
    batch_axes=(0,),
    result_batch_axes=lambda x: [0],
    insists="cudnn",
)
