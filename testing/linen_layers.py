"""The Linen layers of the porting table, for the cases of ``flax_layers`` with the same torch layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

import jaxlstm
from testing.flax_layers import CASES, DTYPE, EPS, NORM, LayerCase


def _conv(spatial: int, **kwargs: Any) -> nn.Module:
    return nn.Conv(6, (3, 2, 1)[:spatial], strides=2, padding=1, **kwargs, **DTYPE)


def _conv_transpose(spatial: int, transpose_kernel: bool) -> nn.Module:
    kernel = (3, 4)[:spatial]
    padding = [(k - 2, k - 1) for k in kernel]
    return nn.ConvTranspose(
        3, kernel, strides=(2,) * spatial, padding=padding, transpose_kernel=transpose_kernel, **DTYPE
    )


def _rnn(cell: Any) -> nn.Module:
    return nn.RNN(cell(4, **DTYPE))


LINEN: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Dense(4, **DTYPE),
    "Linear without bias": lambda: nn.Dense(4, use_bias=False, **DTYPE),
    "LinearGeneral": lambda: nn.DenseGeneral((4, 5), axis=(-2, -1), **DTYPE),
    "Conv1d": lambda: _conv(1),
    "Conv2d": lambda: _conv(2),
    "Conv2d, groups": lambda: _conv(2, feature_group_count=2),
    "Conv2d, dilation, no bias": lambda: _conv(2, kernel_dilation=2, use_bias=False),
    "Conv3d": lambda: _conv(3),
    "ConvTranspose1d, transpose_kernel": lambda: _conv_transpose(1, True),
    "ConvTranspose2d, transpose_kernel": lambda: _conv_transpose(2, True),
    "ConvTranspose2d": lambda: _conv_transpose(2, False),
    "Embed": lambda: nn.Embed(7, 3, **DTYPE),
    "LayerNorm": lambda: nn.LayerNorm(**EPS),
    "LayerNorm without bias": lambda: nn.LayerNorm(use_bias=False, **EPS),
    "GroupNorm": lambda: nn.GroupNorm(3, **EPS),
    "InstanceNorm": lambda: nn.InstanceNorm(**EPS),
    "RMSNorm": lambda: nn.RMSNorm(**NORM),
    "BatchNorm": lambda: nn.BatchNorm(use_running_average=True, momentum=0.9, **EPS),
    "BatchNorm without scale and bias": lambda: nn.BatchNorm(
        use_running_average=True, momentum=0.9, use_scale=False, use_bias=False, **EPS
    ),
    "WeightNorm of Linear, weight_g": lambda: nn.WeightNorm(nn.Dense(4, **DTYPE), **DTYPE),
    "WeightNorm of Linear, original0": lambda: nn.WeightNorm(nn.Dense(4, **DTYPE), **DTYPE),
    "WeightNorm of Linear, dim=None": lambda: nn.WeightNorm(nn.Dense(4, **DTYPE), feature_axes=None, **DTYPE),
    "WeightNorm of Conv2d": lambda: nn.WeightNorm(_conv(2), **DTYPE),
    "WeightNorm of ConvTranspose1d": lambda: nn.WeightNorm(_conv_transpose(1, True), **DTYPE),
    "WeightNorm of ConvTranspose2d, flipped": lambda: nn.WeightNorm(
        _conv_transpose(2, False), feature_axes=-2, **DTYPE
    ),
    "MultiHeadAttention": lambda: nn.MultiHeadDotProductAttention(2, **DTYPE),
    "MultiHeadAttention, separate": lambda: nn.MultiHeadDotProductAttention(2, **DTYPE),
    "MultiHeadAttention without bias": lambda: nn.MultiHeadAttention(2, use_bias=False, **DTYPE),
    "PReLU": lambda: nn.PReLU(**DTYPE),
    "jaxlstm LSTM": lambda: jaxlstm.linen.LSTM(3, 4, 2, batch_first=True, bidirectional=True, **DTYPE),
    "jaxlstm LSTM, projected": lambda: jaxlstm.linen.LSTM(3, 4, batch_first=True, proj_size=2, **DTYPE),
    "jaxlstm LSTMCell": lambda: jaxlstm.linen.LSTMCell(3, 4, **DTYPE),
    "RNN of jaxlstm LSTMCell": lambda: nn.RNN(jaxlstm.linen.LSTMCell(3, 4, **DTYPE)),
    "LSTMCell": lambda: nn.LSTMCell(4, **DTYPE),
    "OptimizedLSTMCell": lambda: nn.OptimizedLSTMCell(4, **DTYPE),
    "RNN of LSTMCell": lambda: _rnn(nn.LSTMCell),
    "RNN of OptimizedLSTMCell without biases": lambda: _rnn(nn.OptimizedLSTMCell),
    "Bidirectional of OptimizedLSTMCell": lambda: nn.Bidirectional(
        _rnn(nn.OptimizedLSTMCell), _rnn(nn.OptimizedLSTMCell)
    ),
    "GRUCell": lambda: nn.GRUCell(4, **DTYPE),
    "RNN of GRUCell": lambda: _rnn(nn.GRUCell),
}


def call_arguments(case: LayerCase, x: Any) -> tuple[Any, ...]:
    """Return the positional arguments with which ``run_flax`` calls a layer."""
    calls: list[tuple[Any, ...]] = []

    def layer(*args: Any) -> tuple[Any, Any]:
        calls.append(args)
        return args[0], args[0]

    case.run_flax(layer, case.to_flax(x))
    return calls[0]


assert LINEN.keys() == CASES.keys()
