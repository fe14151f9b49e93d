"""Operators of programs that are compiled for inference on a CPU: the native kernel, with prepared weights.

They have no derivatives. A convolution takes a gate of its input, and the norm, residual and activation after
it. Arrays that the kernel does not take run as the operators that these replace, see
:mod:`jaxlstm.programs.passes.fuse`.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.kernels.cpu.convolution import convolve, packed, takes_convolution
from jaxlstm.kernels.cpu.library import library
from jaxlstm.kernels.cpu.norm import normalize, takes_norm
from jaxlstm.layer.cell import LSTM, Cell
from jaxlstm.layer.convolution import Geometry
from jaxlstm.layer.gru_rnn import GRU
from jaxlstm.layer.ragged import valid_steps
from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.convolution import conv, pads_of
from jaxlstm.programs.operators.normalization import batch_norm
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS, run_layer
from jaxlstm.programs.operators.registry import (
    CHANNELS_LAST,
    INFERENCE,
    Options,
    find_operator,
    register_operator,
)

CONVOLUTION, MEAN = INFERENCE + "convolution.default", INFERENCE + "mean.default"
LINEAR = INFERENCE + "linear.default"
RECURRENT = {
    INFERENCE + op.removeprefix("aten."): (op, cell)
    for cell, ops in {
        LSTM: ("aten.lstm_cell.default", "aten.lstm.input"),
        GRU: ("aten.gru_cell.default", "aten.gru.input"),
    }.items()
    for op in ops
}
"""An operator -> the operator of torch, and the cell of the kernel."""

NORMS = {
    INFERENCE + "layer_norm.default": "aten.layer_norm.default",
    **{
        f"{INFERENCE}{name}_norm.{overload}": f"{namespace}{name}_norm.default"
        for name in ("group", "instance")
        for overload, namespace in (("default", "aten."), ("channels_last", CHANNELS_LAST))
    },
}
"""An operator -> the operator that it replaces."""

FEW_ROWS = 32
"""Up to so many rows, the kernel multiplies by the weight of a linear layer.

In a loop, XLA's products go on in other threads, which have none of the arrays in their caches.
"""

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
    gate: Array | None = None,
    residual: Array | None = None,
    prepared: Sequence[Array] | None = None,
    *,
    options: Options,
) -> Array:
    """Convolve (N, *size, C) times a gate, normalize by running statistics, add, and apply an activation.

    ``norm`` is weight, bias, running mean, running variance and epsilon; ``activation`` is an operator;
    ``prepared`` is the result of :func:`prepare_convolution`.
    """
    if gate is not None:
        input, gate = (gate, input) if gate.size > input.size else (input, gate)
        if (
            groups != 1
            or gate.dtype != np.float32
            or gate.shape != (len(input), *(1,) * (input.ndim - 2), input.shape[-1])
        ):
            input, gate = _operator("aten.mul.Tensor")(input, gate), None
    n = weight.ndim - 2
    dilations = repeated(dilation, n)
    geometry = Geometry(repeated(stride, n), pads_of(padding, weight.shape[2:], dilations), dilations)
    shape = (*input.shape[:1], *geometry.counts(input.shape[1:-1], weight.shape[2:]), len(weight))
    joins = residual is None or (residual.shape, residual.dtype) == (shape, np.float32)
    if joins and input.ndim == weight.ndim and takes_convolution(input, weight, geometry, groups):
        kernel, shift = prepared or prepare_convolution(weight, bias, norm, groups)
        applied = ACTIVATIONS.get(activation, "none")
        factors = None if gate is None else gate.reshape(len(gate), -1)
        return convolve(input, kernel, weight.shape, shift, geometry, groups, applied, factors, residual)
    input = input if gate is None else input * gate
    y = conv(True, input, weight, bias, stride, padding, dilation, groups, options=options)
    if norm is not None:
        y = batch_norm(True, y, norm[0], norm[1], norm[2], norm[3], False, 0.0, norm[4])
    y = y if residual is None else _operator("aten.add.Tensor")(y, residual)
    return _operator(activation)(y) if activation else y


def _operator(name: str) -> Any:
    operator = find_operator(name)
    assert operator is not None
    return operator.function


@register_operator(MEAN)
def spatial_mean(self: Array, dim: Sequence[int], keepdim: bool = False, *, options: Options) -> Array:
    """Return the mean of (N, H, W, C) over H or W, or both, as depthwise convolutions.

    It runs on the threads that have the rows in their caches, and adds few terms one after the other.
    """
    if self.dtype != np.float32 or library().handle is None or not self.size:
        return _operator("aten.mean.dim")(self, dim, keepdim)
    y = self
    for axis in sorted(dim, reverse=True):
        window = [1, 1]
        window[axis - 1] = size = y.shape[axis]
        weight: Any = np.full((y.shape[-1], 1, *window), 1 / size, np.float32)
        y = fused_convolution(y, weight, groups=len(weight), options=options)
    return y if keepdim else y.squeeze(tuple(dim))


@register_operator(LINEAR)
def prepared_linear(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    prepared: Sequence[Array] | None = None,
    *,
    options: Options,
) -> Array:
    """Return ``input @ weight.T + bias``; for few rows as a convolution with windows of one element."""
    rows = input.size // max(1, input.shape[-1])
    is_known = not jax.export.is_symbolic_dim(rows)  # A proof has symbols for sizes.
    if prepared is None or input.dtype != np.float32 or not (is_known and 0 < rows <= FEW_ROWS):
        return _operator("aten.linear.default")(input, weight, bias, options=options)
    x = input.reshape(1, rows, -1)
    y = fused_convolution(x, weight[..., None], bias, prepared=prepared, options=options)
    return y.reshape(*input.shape[:-1], -1)


def native_norm(
    op: str,
    input: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    **others: Any,
) -> Array:
    """Run a layer, group or instance norm: the operator ``op``."""
    if not takes_norm(input) or others.get("use_input_stats") is False:
        return _operator(op)(input, weight=weight, bias=bias, eps=eps, **others)
    if "normalized_shape" in others:
        weight, bias = (None if value is None else value.reshape(-1) for value in (weight, bias))
        rows = input.reshape(-1, prod(others["normalized_shape"]))
        return normalize(rows, 1, 1, weight, bias, eps).reshape(input.shape)
    place = input.ndim - 1 if op.startswith(CHANNELS_LAST) else 1
    return normalize(input, place, others.get("num_groups", input.shape[place]), weight, bias, eps)


for _op, _replaced in NORMS.items():
    register_operator(_op)(partial(native_norm, _replaced))


def prepared_cell(
    op: str, cell: Cell, input: Array, hx: Any, prepared: Any = None, *, options: Options, **weights: Any
) -> Any:
    """Run one step of torch's ``op``, if possible with the weights that are prepared. Returns (h, c) or h."""
    state = hx if cell is LSTM else (hx,)
    if prepared is not None and input.ndim == 2 and all(x.dtype == np.float32 for x in (input, *state)):
        from jaxlstm.kernels.cpu.ffi import prepared_layer

        _, *last = prepared_layer(cell, prepared[0], input[None], [leaf[None] for leaf in state])
        return (last[0][0], last[1][0]) if cell is LSTM else last[0][0]
    return _operator(op)(input, hx, options=options, **weights)


def prepared_layers(
    op: str,
    cell: Cell,
    input: Array,
    hx: Any,
    bidirectional: bool,
    batch_first: bool,
    prepared: Sequence[Array] | None = None,
    *,
    options: Options,
    **others: Any,
) -> tuple[Array, ...]:
    """Run torch's ``op`` as :func:`run_layer`, if possible with the weights that are prepared."""
    given = hx if cell is LSTM else (hx,)
    if prepared is None or input.ndim != 3 or any(x.dtype != np.float32 for x in (input, *given)):
        others |= {"bidirectional": bidirectional, "batch_first": batch_first, "options": options}
        return run_layer(op, input, hx, **others)
    from jaxlstm.kernels.cpu.ffi import prepared_layer

    x, valid = jnp.moveaxis(input, 1, 0) if batch_first else input, None
    if options.seq_lengths is not None:
        valid = valid_steps(options.seq_lengths, len(x))  # The kernel selects, so padding may contain NaN.
    states, directions = [], 1 + bidirectional
    for first, weights in zip(range(0, len(given[0]), directions), prepared, strict=True):
        initial = [part[first : first + directions] for part in given]
        x, *state = prepared_layer(cell, weights, x, initial, valid)
        states.append(state)
    return jnp.moveaxis(x, 1, 0) if batch_first else x, *map(jnp.concatenate, zip(*states, strict=True))


for _op, (_of_torch, _cell) in RECURRENT.items():
    _function = prepared_layers if _of_torch in SEQUENCE_LAYERS else prepared_cell
    register_operator(_op)(partial(_function, _of_torch, _cell))


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
