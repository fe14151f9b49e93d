"""Operators of programs that are compiled for inference on a CPU: the native kernel, with prepared weights.

They have no derivatives. A convolution takes the norm and the activation after it. Arrays that the kernel
does not take run as the operators that these replace, see :mod:`jaxlstm.programs.fused`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.kernels.cpu.convolution import convolve, takes_convolution
from jaxlstm.kernels.cpu.ffi import prepared_step
from jaxlstm.kernels.cpu.library import library
from jaxlstm.layer.convolution import Geometry
from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.convolution import conv, pads_of
from jaxlstm.programs.operators.normalization import batch_norm
from jaxlstm.programs.operators.recurrent import lstm_cell_
from jaxlstm.programs.operators.registry import INFERENCE, Options, find_operator, register_operator

CONVOLUTION, CELL = INFERENCE + "convolution.default", INFERENCE + "lstm_cell.default"

ACTIVATIONS = {
    "aten.relu.default": "relu",
    "aten.relu6.default": "relu6",
    "aten.hardswish.default": "hardswish",
    "aten.silu.default": "silu",
}
"""An operator -> the name of the activation in the kernel."""


@register_operator(CONVOLUTION)
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


@register_operator(CELL)
def prepared_lstm_cell(
    input: Array,
    hx: Sequence[Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    options: Options,
) -> tuple[Array, Array]:
    """Run one step of an LSTM with weights that are packed now. Returns (h, c)."""
    arrays = [leaf for leaf in (w_ih, w_hh, b_ih, b_hh) if leaf is not None]
    is_known = not any(isinstance(leaf, Tracer) for leaf in arrays) and library().handle is not None
    if is_known and input.ndim == 2 and all(leaf.dtype == np.float32 for leaf in (input, *hx, *arrays)):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        params = {name: np.asarray(leaf) for name, leaf in zip(names, arrays, strict=False)}
        return prepared_step(params, input, hx[0], hx[1])
    return lstm_cell_(input, hx, w_ih, w_hh, b_ih, b_hh, options=options)


def _with_norm(weight: Any, bias: Any, norm: Sequence[Any] | None) -> tuple[Any, Any]:
    """Return the weight and bias of the convolution with the norm, computed now if the values are known."""
    if any(isinstance(array, Tracer) for array in (weight, bias, *(norm or ()))):
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
