"""Layers of the porting table: the same layer in torch and in Flax NNX, with an input for each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jaxlstm

DTYPE: dict[str, Any] = {"param_dtype": jnp.float64}
NORM: dict[str, Any] = {**DTYPE, "use_fast_variance": False}
EPS: dict[str, Any] = {**NORM, "epsilon": 1e-5}


def same(x: Any) -> Any:
    return x


def channels_last(x: Any) -> Any:
    """Move axis 1 to the end, as Flax's convolutions and norms expect it."""
    return np.moveaxis(np.asarray(x), 1, -1) if isinstance(x, np.ndarray) else jnp.moveaxis(x, 1, -1)


def channels_first(x: Any) -> Any:
    return jnp.moveaxis(x, -1, 1)


class LayerCase(NamedTuple):
    """A layer on both sides.

    Attributes:
      torch: creates the torch layer.
      flax: creates the Flax layer from ``rngs``.
      shape: shape of torch's input; ``()`` for integer tokens.
      to_flax: changes torch's input to Flax's.
      to_torch: changes Flax's output to torch's.
      run_torch, run_flax: call a layer.
      atol: largest difference of values and gradients in float64.
    """

    torch: Callable[[], torch.nn.Module]
    flax: Callable[[nnx.Rngs], nnx.Module]
    shape: tuple[int, ...]
    to_flax: Callable[[Any], Any] = same
    to_torch: Callable[[Any], Any] = same
    run_torch: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    run_flax: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    atol: float = 2e-12


def _conv(spatial: int, **kwargs: Any) -> LayerCase:
    """A convolution of odd sizes: 4 to 6 channels, kernel (3, 2, 1), stride 2, padding 1."""
    kernel = (3, 2, 1)[:spatial]
    layer: Any = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[spatial - 1]
    groups = kwargs.pop("groups", 1)
    return LayerCase(
        lambda: layer(4, 6, kernel, stride=2, padding=1, groups=groups, **kwargs),
        lambda rngs: nnx.Conv(
            4, 6, kernel, strides=2, padding=1, feature_group_count=groups, rngs=rngs, **DTYPE,
            use_bias=kwargs.get("bias", True), kernel_dilation=kwargs.get("dilation", 1),
        ),
        (2, 4, 7, 5, 3)[: spatial + 2],
        channels_last,
        channels_first,
    )  # fmt: skip


def _conv_transpose(spatial: int, transpose_kernel: bool) -> LayerCase:
    kernel = (3, 4)[:spatial]
    layer: Any = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d)[spatial - 1]
    # torch: padding 1, output_padding 1; Flax pads by k - 1 - padding on the left.
    padding = [(k - 2, k - 1) for k in kernel]
    return LayerCase(
        lambda: layer(4, 3, kernel, stride=2, padding=1, output_padding=1),
        lambda rngs: nnx.ConvTranspose(
            4, 3, kernel, strides=(2,) * spatial, padding=padding,
            transpose_kernel=transpose_kernel, rngs=rngs, **DTYPE,
        ),
        (2, 4, 5, 6)[: spatial + 2],
        channels_last,
        channels_first,
    )  # fmt: skip


def _attention(kdim: int | None, bias: bool = True) -> LayerCase:
    return LayerCase(
        lambda: torch.nn.MultiheadAttention(6, 2, bias=bias, kdim=kdim, vdim=kdim, batch_first=True),
        lambda rngs: nnx.MultiHeadAttention(
            2, 6, in_kv_features=kdim, use_bias=bias, decode=False, rngs=rngs, **DTYPE
        ),
        (2, 5, 6),
        run_torch=lambda layer, x: layer(x, x[..., :kdim], x[..., :kdim])[0],
        run_flax=lambda layer, x: layer(x, x[..., :kdim], x[..., :kdim]),
        atol=2e-6,  # jax.nn.dot_product_attention computes the softmax in float32
    )


def _weight_norm(old: bool, torch_layer: Any, flax_layer: Any, case: LayerCase, **kwargs: Any) -> LayerCase:
    def norm(layer: torch.nn.Module) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old one is deprecated
            return (torch.nn.utils if old else torch.nn.utils.parametrizations).weight_norm(layer, **kwargs)

    axes = {"feature_axes": kwargs.pop("feature_axes", -1)}
    return case._replace(
        torch=lambda: norm(torch_layer()),
        flax=lambda rngs: nnx.WeightNorm(flax_layer(rngs), rngs=rngs, **axes),
        atol=2e-11,  # Flax adds 1e-12 to the norm
    )


def _rnn(torch_cell: Any, cell: Any, bidirectional: bool = False, **kwargs: Any) -> LayerCase:
    def make(rngs: nnx.Rngs) -> nnx.Module:
        directions = [nnx.RNN(cell(3, 4, rngs=rngs, **DTYPE)) for _ in range(1 + bidirectional)]
        return nnx.Bidirectional(*directions) if bidirectional else directions[0]

    return LayerCase(
        lambda: torch_cell(3, 4, bidirectional=bidirectional, batch_first=True, **kwargs),
        make,
        (2, 5, 3),
        run_torch=lambda layer, x: layer(x)[0],
    )


def _cell(torch_cell: Any, cell: Any) -> LayerCase:
    """A cell from a state of ones; the output is h."""
    lstm = torch_cell is torch.nn.LSTMCell

    def run_torch(layer: Any, x: Any) -> Any:
        h = torch.ones(2, 4, dtype=x.dtype)
        return layer(x, (h, 2 * h))[0] if lstm else layer(x, h)

    def run_flax(layer: Any, x: Any) -> Any:
        h = jnp.ones((2, 4), x.dtype)
        return layer((2 * h, h) if lstm else h, x)[1]

    return LayerCase(
        lambda: torch_cell(3, 4),
        lambda rngs: cell(3, 4, rngs=rngs, **DTYPE),
        (2, 3),
        run_torch=run_torch,
        run_flax=run_flax,
    )


def _gru_without_candidate_bias(*args: Any, **kwargs: Any) -> torch.nn.Module:
    """A GRU or GRUCell whose b_hn is zero, which nnx.GRUCell can express."""
    layer = kwargs.pop("layer")(*args, **kwargs)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("bias_hh"):
                parameter[8:] = 0
    return layer


def _lstm(**kwargs: Any) -> LayerCase:
    return LayerCase(
        lambda: torch.nn.LSTM(3, 4, batch_first=True, **kwargs),
        lambda rngs: jaxlstm.nnx.LSTM(3, 4, batch_first=True, rngs=rngs, **DTYPE, **kwargs),
        (2, 5, 3),
        run_torch=lambda layer, x: layer(x)[0],
        run_flax=lambda layer, x: layer(x)[0],
    )


LINEAR = LayerCase(lambda: torch.nn.Linear(3, 4), lambda rngs: nnx.Linear(3, 4, rngs=rngs, **DTYPE), (2, 3))
CONV2D = _conv(2)
IMAGE = ((2, 6, 4, 3), channels_last, channels_first)
nn = torch.nn

CASES: dict[str, LayerCase] = {
    "Linear": LINEAR,
    "Linear without bias": LayerCase(
        lambda: nn.Linear(3, 4, bias=False),
        lambda rngs: nnx.Linear(3, 4, use_bias=False, rngs=rngs, **DTYPE),
        (2, 3),
    ),
    "LinearGeneral": LayerCase(
        lambda: nn.Linear(6, 20),
        lambda rngs: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), rngs=rngs, **DTYPE),
        (2, 6),
        lambda x: x.reshape(2, 2, 3),
        lambda y: y.reshape(2, 20),
    ),
    "Conv1d": _conv(1),
    "Conv2d": CONV2D,
    "Conv2d, groups": _conv(2, groups=2),
    "Conv2d, dilation, no bias": _conv(2, dilation=2, bias=False),
    "Conv3d": _conv(3),
    "ConvTranspose1d, transpose_kernel": _conv_transpose(1, True),
    "ConvTranspose2d, transpose_kernel": _conv_transpose(2, True),
    "ConvTranspose2d": _conv_transpose(2, False),
    "Embed": LayerCase(lambda: nn.Embedding(7, 3), lambda rngs: nnx.Embed(7, 3, rngs=rngs, **DTYPE), ()),
    "LayerNorm": LayerCase(
        lambda: nn.LayerNorm(6), lambda rngs: nnx.LayerNorm(6, rngs=rngs, **EPS), (2, 5, 6)
    ),
    "LayerNorm without bias": LayerCase(
        lambda: nn.LayerNorm(6, bias=False),
        lambda rngs: nnx.LayerNorm(6, use_bias=False, rngs=rngs, **EPS),
        (2, 5, 6),
    ),
    "GroupNorm": LayerCase(
        lambda: nn.GroupNorm(3, 6), lambda rngs: nnx.GroupNorm(6, 3, rngs=rngs, **EPS), *IMAGE
    ),
    "InstanceNorm": LayerCase(
        lambda: nn.InstanceNorm2d(6, affine=True), lambda rngs: nnx.InstanceNorm(6, rngs=rngs, **EPS), *IMAGE
    ),
    "RMSNorm": LayerCase(
        lambda: nn.RMSNorm(6, eps=1e-6), lambda rngs: nnx.RMSNorm(6, rngs=rngs, **NORM), (2, 5, 6)
    ),
    "BatchNorm": LayerCase(
        lambda: nn.BatchNorm2d(6),
        lambda rngs: nnx.BatchNorm(6, momentum=0.9, use_running_average=True, rngs=rngs, **EPS),
        *IMAGE,
    ),
    "BatchNorm without scale and bias": LayerCase(
        lambda: nn.BatchNorm1d(6, affine=False),
        lambda rngs: nnx.BatchNorm(
            6, momentum=0.9, use_running_average=True, use_scale=False, use_bias=False, rngs=rngs, **EPS
        ),
        (4, 6),
    ),
    "WeightNorm of Linear, weight_g": _weight_norm(True, LINEAR.torch, LINEAR.flax, LINEAR),
    "WeightNorm of Linear, original0": _weight_norm(False, LINEAR.torch, LINEAR.flax, LINEAR),
    "WeightNorm of Linear, dim=None": _weight_norm(
        False, LINEAR.torch, LINEAR.flax, LINEAR, dim=None, feature_axes=None
    ),
    "WeightNorm of Conv2d": _weight_norm(False, CONV2D.torch, CONV2D.flax, CONV2D),
    "WeightNorm of ConvTranspose1d": _weight_norm(
        True, _conv_transpose(1, True).torch, _conv_transpose(1, True).flax, _conv_transpose(1, True)
    ),
    "WeightNorm of ConvTranspose2d, flipped": _weight_norm(
        False,
        _conv_transpose(2, False).torch,
        _conv_transpose(2, False).flax,
        _conv_transpose(2, False),
        feature_axes=-2,
    ),
    "MultiHeadAttention": _attention(None),
    "MultiHeadAttention, separate": _attention(3),
    "MultiHeadAttention without bias": _attention(None, bias=False),
    "PReLU": LayerCase(lambda: nn.PReLU(), lambda rngs: nnx.PReLU(**DTYPE), (2, 3)),
    "jaxlstm LSTM": _lstm(num_layers=2, bidirectional=True),
    "jaxlstm LSTM, projected": _lstm(proj_size=2),
    "jaxlstm LSTMCell": _cell(nn.LSTMCell, jaxlstm.nnx.LSTMCell),
    "RNN of jaxlstm LSTMCell": _rnn(nn.LSTM, jaxlstm.nnx.LSTMCell),
    "LSTMCell": _cell(nn.LSTMCell, nnx.LSTMCell),
    "OptimizedLSTMCell": _cell(nn.LSTMCell, nnx.OptimizedLSTMCell),
    "RNN of LSTMCell": _rnn(nn.LSTM, nnx.LSTMCell),
    "RNN of OptimizedLSTMCell without biases": _rnn(nn.LSTM, nnx.OptimizedLSTMCell, bias=False),
    "Bidirectional of OptimizedLSTMCell": _rnn(nn.LSTM, nnx.OptimizedLSTMCell, bidirectional=True),
    "GRUCell": _cell(nn.GRUCell, nnx.GRUCell)._replace(
        torch=lambda: _gru_without_candidate_bias(3, 4, layer=nn.GRUCell)
    ),
    "RNN of GRUCell": _rnn(nn.GRU, nnx.GRUCell)._replace(
        torch=lambda: _gru_without_candidate_bias(3, 4, layer=nn.GRU, batch_first=True)
    ),
}

# Flax keeps one bias of two, so that the torch state dict cannot be restored.
LOSSY = {name for name in CASES if "LSTMCell" in name and "jaxlstm" not in name} | {
    "GRUCell",
    "RNN of GRUCell",
}


def randomized(layer: torch.nn.Module) -> torch.nn.Module:
    """Return the layer in float64, with random weights and statistics of about 1."""
    layer = layer.double()
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if name.endswith("running_var"):
                # Flax keeps statistics in float32.
                tensor.copy_((torch.rand(tensor.shape) + 0.5).double())
            elif name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape).double())
            elif tensor.ndim == 1 and "bias_hh" not in name:
                tensor.add_(0.3 * torch.randn_like(tensor))
    return layer


def example(case: LayerCase) -> np.ndarray:
    """Return an input in torch's layout."""
    if not case.shape:
        return np.array([[0, 3, 6], [3, 1, 2]])
    return np.random.default_rng(0).standard_normal(case.shape)
