"""A convolution with the norm and the activation after it as one operator, for inference on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.kernels.cpu.convolution import convolve, takes_convolution
from jaxlstm.layer.convolution import Geometry
from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.convolution import conv, pads_of
from jaxlstm.programs.operators.normalization import batch_norm
from jaxlstm.programs.operators.registry import CHANNELS_LAST, Options, find_operator, register_operator

FUSED = CHANNELS_LAST + "fused_convolution.default"

ACTIVATIONS = {
    "aten.relu.default": "relu",
    "aten.relu6.default": "relu6",
    "aten.hardswish.default": "hardswish",
    "aten.silu.default": "silu",
}
"""An operator -> the name of the activation in the kernel."""


@register_operator(FUSED)
def fused_convolution(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    norm: Sequence[Any] | None = None,
    activation: str = "",
    *,
    options: Options,
) -> Array:
    """Convolve (N, *size, C), normalize by running statistics, and apply an activation.

    ``norm`` is weight, bias, running mean, running variance and epsilon; ``activation`` is an operator.
    """
    n = weight.ndim - 2
    dilations = repeated(dilation, n)
    geometry = Geometry(repeated(stride, n), pads_of(padding, weight.shape[2:], dilations), dilations)
    if input.ndim == weight.ndim and takes_convolution(input, weight, geometry, groups):
        kernel, shift = _with_norm(weight, bias, norm)
        return convolve(input, kernel, shift, geometry, groups, ACTIVATIONS.get(activation, "none"))
    y = conv(True, input, weight, bias, stride, padding, dilation, groups, options=options)
    if norm is not None:
        y = batch_norm(True, y, norm[0], norm[1], norm[2], norm[3], False, 0.0, norm[4])
    operator = find_operator(activation)
    return operator.function(y) if operator else y


def _with_norm(weight: Any, bias: Any, norm: Sequence[Any] | None) -> tuple[Any, Any]:
    """Return the weight and bias of the convolution with the norm, computed now if the values are known."""
    arrays = [value for value in (weight, bias, *(norm or ())) if isinstance(value, jax.Array)]
    if any(isinstance(array, Tracer) for array in arrays):
        xp: Any = jnp
    else:
        xp = np
        weight, bias = np.asarray(weight), None if bias is None else np.asarray(bias)
    bias = xp.zeros(weight.shape[0], weight.dtype) if bias is None else bias
    if norm is None:
        return weight, bias
    scale, shift, mean, variance = (0 if value is None else xp.asarray(value) for value in norm[:4])
    factor = (1 if norm[0] is None else scale) / xp.sqrt(variance + np.float32(norm[4]))
    bias = (bias - mean) * factor + shift
    return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1)), bias
