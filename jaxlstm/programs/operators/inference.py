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

from jaxlstm.kernels.cpu.convolution import convolve, packed, takes_convolution
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
    prepared: Sequence[Array] | None = None,
    *,
    options: Options,
) -> Array:
    """Convolve (N, *size, C), normalize by running statistics, and apply an activation.

    ``norm`` is weight, bias, running mean, running variance and epsilon; ``activation`` is an operator;
    ``prepared`` is the result of :func:`prepare_convolution`.
    """
    n = weight.ndim - 2
    dilations = repeated(dilation, n)
    geometry = Geometry(repeated(stride, n), pads_of(padding, weight.shape[2:], dilations), dilations)
    if input.ndim == weight.ndim and takes_convolution(input, weight, geometry, groups):
        kernel, shift = prepared or prepare_convolution(weight, bias, norm, groups)
        applied = ACTIVATIONS.get(activation, "none")
        return convolve(input, kernel, weight.shape, shift, geometry, groups, applied)
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
    prepared: Array | None = None,
    *,
    options: Options,
) -> tuple[Array, Array]:
    """Run one step of an LSTM, if possible with the weights that are prepared. Returns (h, c)."""
    if prepared is not None and input.ndim == 2 and all(x.dtype == np.float32 for x in (input, *hx)):
        from jaxlstm.kernels.cpu.ffi import prepared_step

        return prepared_step(prepared, input, hx[0], hx[1])
    return lstm_cell_(input, hx, w_ih, w_hh, b_ih, b_hh, options=options)


def prepare_convolution(weight: Any, bias: Any, norm: Sequence[Any] | None, groups: int) -> tuple[Any, Any]:
    """Return the packed weight and the bias of a convolution with the norm: NumPy arrays if all are known."""
    if any(isinstance(array, Tracer) for array in (weight, bias, *(norm or ()))):
        xp: Any = jnp
    else:
        xp = np
        weight, bias = np.asarray(weight), None if bias is None else np.asarray(bias)
    bias = xp.zeros(weight.shape[0], weight.dtype) if bias is None else bias
    if norm is not None:
        scale, shift, mean, variance = (0 if value is None else xp.asarray(value) for value in norm[:4])
        factor = (1 if norm[0] is None else scale) / xp.sqrt(variance + np.float32(norm[4]))
        bias = (bias - mean) * factor + shift
        weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    return packed(weight, groups), bias
