"""Whole stacks by cuDNN, through :mod:`jax.experimental.rnn`, for float32 without projection.

cuDNN takes the weights of all layers in one array: all matrices, then all biases. The program packs them, so
parameters keep their names. cuDNN also takes the batch axis first, so inputs and outputs are transposed.

JAX supports neither forward mode, nor second derivatives, nor ``jax.vmap`` for cuDNN. ``backend="scan"``
supports all three, with the same parameters and results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

from jaxlstm.kernels.operations import KernelOperation, ResultType
from jaxlstm.kernels.primitive import KernelPrimitive
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import direction_params
from jaxlstm.layer.precision import Precision, level_of
from jaxlstm.layer.stack import BetweenLayers, over_layers


def stack_by_cudnn(
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

    This is a :class:`jaxlstm.layer.stack.StackFunction` for float32 without projection.

    Raises:
      RuntimeError: cuDNN is not available, or does not support the config or the dtype.
    """
    require_supported(config, x.dtype)
    require_device()
    if between_layers is None:
        every_layer = range(config.num_layers)
        return _call_cudnn(params, x, initial_state, lengths, config, every_layer, precision)

    def each_layer(layer: int, x: jax.Array, states: list[LSTMState]) -> tuple[jax.Array, list[LSTMState]]:
        state = LSTMState(*map(jnp.stack, zip(*states, strict=True)))
        y, last = _call_cudnn(params, x, state, lengths, config, range(layer, layer + 1), precision)
        return y, [LSTMState(h, c) for h, c in zip(last.h, last.c, strict=True)]

    return over_layers(config, x, initial_state, each_layer, between_layers=between_layers)


def _call_cudnn(
    params: Mapping[str, Any],
    inputs: jax.Array,
    initial_state: LSTMState,
    lengths: jax.Array | None,
    config: LSTMConfig,
    layers: range,
    precision: Precision,
) -> tuple[jax.Array, LSTMState]:
    """Run consecutive layers, with their own initial state, in one call of cuDNN."""
    time, batch, _ = inputs.shape
    steps = jnp.full((batch,), time, jnp.int32) if lengths is None else jnp.clip(lengths, 1, time)
    call: Any = rnn.lstm  # Any, because its annotations use another library
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
        cudnn_precision(precision),
    )
    outputs, last = outputs.swapaxes(0, 1), LSTMState(h, c)
    if lengths is None:
        return outputs, last
    # cuDNN requires lengths of at least 1, so discard the step that an empty row took.
    nonempty = (lengths > 0)[:, None]
    last = (jnp.where(nonempty, n, o) for n, o in zip(last, initial_state, strict=True))
    return jnp.where(nonempty, outputs, jnp.zeros_like(outputs)), LSTMState(*last)


def pack(params: Mapping[str, Any], config: LSTMConfig, layers: range) -> jax.Array:
    """Pack the parameters of some layers for :mod:`jax.experimental.rnn`. A missing bias becomes zeros."""
    directions = [
        direction_params(params, config, layer, direction)
        for layer in layers
        for direction in range(config.num_directions)
    ]
    matrices = [p[name].ravel() for p in directions for name in ("weight_ih", "weight_hh")]
    zeros = jnp.zeros(4 * config.hidden_size, matrices[0].dtype)
    biases = [p.get(name, zeros) for p in directions for name in ("bias_ih", "bias_hh")]
    return jnp.concatenate(matrices + biases)


def cudnn_precision(precision: Precision) -> lax.Precision:
    """Return HIGHEST for float32 products, and HIGH for TF32, which covers every lower precision on a GPU."""
    exact = level_of(precision) == lax.Precision.HIGHEST
    return lax.Precision.HIGHEST if exact else lax.Precision.HIGH


def require_supported(config: LSTMConfig, dtype: Any) -> None:
    """Raise a RuntimeError if JAX's cuDNN LSTM does not support the config or the dtype."""
    if config.proj_size > 0:
        raise RuntimeError(
            f"backend='cudnn' does not support a projection, got proj_size={config.proj_size}; "
            "use backend='auto' or 'scan'"
        )
    if dtype != jnp.float32:
        raise RuntimeError(f"backend='cudnn' supports float32, got {dtype}; use backend='auto' or 'scan'")


def require_device() -> None:
    """Raise a RuntimeError without an NVIDIA GPU, which JAX asks for the size of cuDNN's workspace."""
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        raise RuntimeError(
            "backend='cudnn' needs an NVIDIA GPU and pip install 'jax[cuda12]', but JAX finds no such "
            "device; use backend='auto' or 'scan'"
        ) from error


# An identity that exists only on CUDA. Lowering for another platform then fails with a clear message instead
# of a missing rule for one of cuDNN's operations.
_on_cuda = KernelPrimitive(
    "lstm_cudnn",
    KernelOperation(
        "lengths",
        lambda lengths: lengths,
        (0,),
        lambda lengths: {"lengths": ResultType(lengths.shape, lengths.dtype, 0)},
        lambda values: values["lengths"],
    ),
    "cuda",
    lambda lengths, out: {"lengths": lengths},
    required_by="cudnn",
)
