"""Layers of the porting table: the same layer in torch, Flax NNX and Linen, with an input for each."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn

import jaxlstm

DTYPE: dict[str, Any] = {"param_dtype": jnp.float64}
EPS: dict[str, Any] = {**DTYPE, "use_fast_variance": False, "epsilon": 1e-5}


def same(x: Any) -> Any:
    return x


def channels_last(x: Any) -> Any:
    """Move axis 1 to the end, as Flax's convolutions and norms expect it."""
    return np.moveaxis(np.asarray(x), 1, -1) if isinstance(x, np.ndarray) else jnp.moveaxis(x, 1, -1)


def channels_first(x: Any) -> Any:
    return jnp.moveaxis(x, -1, 1)


class LayerCase(NamedTuple):
    """A layer on all three sides.

    Attributes:
      flax: creates the Flax NNX layer from ``rngs``.
      shape: shape of torch's input; ``()`` for integer tokens.
      to_flax: changes torch's input to Flax's.
      to_torch: changes Flax's output to torch's.
      run_torch, run_flax: call a layer.
      atol: largest difference of values and gradients in float64.
    """

    torch: Callable[[], torch.nn.Module]
    flax: Callable[[nnx.Rngs], nnx.Module]
    linen: Callable[[], linen.Module]
    shape: tuple[int, ...]
    to_flax: Callable[[Any], Any] = same
    to_torch: Callable[[Any], Any] = same
    run_torch: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    run_flax: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    atol: float = 2e-12


def _conv(spatial: int, groups: int = 1, dilation: int = 1, bias: bool = True) -> LayerCase:
    """A convolution of odd sizes: 4 to 6 channels, kernel (3, 2, 1), stride 2, padding 1."""
    kernel = (3, 2, 1)[:spatial]
    layer: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial - 1]
    theirs = {"stride": 2, "padding": 1, "groups": groups, "dilation": dilation, "bias": bias}
    ours: Any = {"strides": 2, "padding": 1, "feature_group_count": groups, "kernel_dilation": dilation}
    ours |= {"use_bias": bias, **DTYPE}
    return LayerCase(
        lambda: layer(4, 6, kernel, **theirs),
        lambda rngs: nnx.Conv(4, 6, kernel, rngs=rngs, **ours),
        lambda: linen.Conv(6, kernel, **ours),
        (2, 4, 7, 5, 3)[: spatial + 2],
        channels_last,
        channels_first,
    )


def _conv_transpose(spatial: int, transpose_kernel: bool) -> LayerCase:
    kernel = (3, 4)[:spatial]
    layer: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d)[spatial - 1]
    # torch: padding 1, output_padding 1; Flax pads by k - 1 - padding on the left.
    ours: Any = {"strides": (2,) * spatial, "padding": [(k - 2, k - 1) for k in kernel], **DTYPE}
    ours["transpose_kernel"] = transpose_kernel
    return LayerCase(
        lambda: layer(4, 3, kernel, stride=2, padding=1, output_padding=1),
        lambda rngs: nnx.ConvTranspose(4, 3, kernel, rngs=rngs, **ours),
        lambda: linen.ConvTranspose(3, kernel, **ours),
        (2, 4, 5, 6)[: spatial + 2],
        channels_last,
        channels_first,
    )


def _attention(kdim: int | None, bias: bool = True) -> LayerCase:
    ours: Any = {"use_bias": bias, **DTYPE}
    return LayerCase(
        lambda: nn.MultiheadAttention(6, 2, bias=bias, kdim=kdim, vdim=kdim, batch_first=True),
        lambda rngs: nnx.MultiHeadAttention(2, 6, in_kv_features=kdim, decode=False, rngs=rngs, **ours),
        # With a bias, the base class of the other.
        lambda: (linen.MultiHeadDotProductAttention if bias else linen.MultiHeadAttention)(2, **ours),
        (2, 5, 6),
        run_torch=lambda layer, x: layer(x, x[..., :kdim], x[..., :kdim])[0],
        run_flax=lambda layer, x: layer(x, x[..., :kdim], x[..., :kdim]),
        atol=2e-6,  # jax.nn.dot_product_attention computes the softmax in float32
    )


def _weight_norm(case: LayerCase, old: bool = False, feature_axes: Any = -1, **kwargs: Any) -> LayerCase:
    def norm(layer: torch.nn.Module) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old one is deprecated
            return (nn.utils if old else nn.utils.parametrizations).weight_norm(layer, **kwargs)

    return case._replace(
        torch=lambda: norm(case.torch()),
        flax=lambda rngs: nnx.WeightNorm(case.flax(rngs), rngs=rngs, feature_axes=feature_axes),
        linen=lambda: linen.WeightNorm(case.linen(), feature_axes=feature_axes, **DTYPE),
        atol=2e-11,  # Flax adds 1e-12 to the norm
    )


def _rnn(torch_layer: Any, name: str, bidirectional: bool = False, **kwargs: Any) -> LayerCase:
    """RNN of a cell, or Bidirectional of two."""

    def make(rngs: nnx.Rngs) -> nnx.Module:
        directions = [nnx.RNN(getattr(nnx, name)(3, 4, rngs=rngs, **DTYPE)) for _ in range(1 + bidirectional)]
        return nnx.Bidirectional(*directions) if bidirectional else directions[0]

    def make_linen() -> linen.Module:
        directions = [linen.RNN(getattr(linen, name)(4, **DTYPE)) for _ in range(1 + bidirectional)]
        return linen.Bidirectional(directions[0], directions[1]) if bidirectional else directions[0]

    return LayerCase(
        lambda: torch_layer(3, 4, bidirectional=bidirectional, batch_first=True, **kwargs),
        make,
        make_linen,
        (2, 5, 3),
        run_torch=lambda layer, x: layer(x)[0],
    )


def _cell(torch_cell: Any, cell: Any, linen_cell: Any) -> LayerCase:
    """A cell from a state of ones; the output is h."""
    lstm = torch_cell is nn.LSTMCell

    def run_torch(layer: Any, x: Any) -> Any:
        h = torch.ones(2, 4, dtype=x.dtype)
        return layer(x, (h, 2 * h))[0] if lstm else layer(x, h)

    def run_flax(layer: Any, x: Any) -> Any:
        h = jnp.ones((2, 4), x.dtype)
        return layer((2 * h, h) if lstm else h, x)[1]

    return LayerCase(
        lambda: torch_cell(3, 4),
        lambda rngs: cell(3, 4, rngs=rngs, **DTYPE),
        lambda: linen_cell(4, **DTYPE),
        (2, 3),
        run_torch=run_torch,
        run_flax=run_flax,
    )


def _without_candidate_bias(case: LayerCase) -> LayerCase:
    """Return the case of a GRU or GRUCell whose b_hn is zero, which nnx.GRUCell can express."""

    def make() -> torch.nn.Module:
        layer = case.torch()
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if name.startswith("bias_hh"):
                    parameter[8:] = 0
        return layer

    return case._replace(torch=make)


def _lstm(**kwargs: Any) -> LayerCase:
    kwargs["batch_first"] = True
    return LayerCase(
        lambda: nn.LSTM(3, 4, **kwargs),
        lambda rngs: jaxlstm.nnx.LSTM(3, 4, rngs=rngs, **DTYPE, **kwargs),
        lambda: jaxlstm.linen.LSTM(3, 4, **DTYPE, **kwargs),
        (2, 5, 3),
        run_torch=lambda layer, x: layer(x)[0],
        run_flax=lambda layer, x: layer(x)[0],
    )


def _norm(torch_layer: Callable[[], Any], name: str, *size: int, **kwargs: Any) -> LayerCase:
    """A normalization of images; Linen infers the number of features."""
    kwargs = {**EPS, **kwargs}
    return LayerCase(
        torch_layer,
        lambda rngs: getattr(nnx, name)(6, *size, rngs=rngs, **kwargs),
        lambda: getattr(linen, name)(*size, **kwargs),
        *((2, 6, 4, 3), channels_last, channels_first),
    )


def _linear(bias: bool = True) -> LayerCase:
    return LayerCase(
        lambda: nn.Linear(3, 4, bias),
        lambda rngs: nnx.Linear(3, 4, use_bias=bias, rngs=rngs, **DTYPE),
        lambda: linen.Dense(4, use_bias=bias, **DTYPE),
        (2, 3),
    )


EVAL: dict[str, Any] = {"momentum": 0.9, "use_running_average": True}
NO_AFFINE = {"use_scale": False, "use_bias": False}
FEATURES_LAST: dict[str, Any] = {"shape": (2, 5, 6), "to_flax": same, "to_torch": same}

CASES: dict[str, LayerCase] = {
    "Linear": _linear(),
    "Linear without bias": _linear(bias=False),
    "LinearGeneral": LayerCase(
        lambda: nn.Linear(6, 20),
        lambda rngs: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), rngs=rngs, **DTYPE),
        lambda: linen.DenseGeneral((4, 5), axis=(-2, -1), **DTYPE),
        (2, 6),
        lambda x: x.reshape(2, 2, 3),
        lambda y: y.reshape(2, 20),
    ),
    "Conv1d": _conv(1),
    "Conv2d": _conv(2),
    "Conv2d, groups": _conv(2, groups=2),
    "Conv2d, dilation, no bias": _conv(2, dilation=2, bias=False),
    "Conv3d": _conv(3),
    "ConvTranspose1d, transpose_kernel": _conv_transpose(1, True),
    "ConvTranspose2d, transpose_kernel": _conv_transpose(2, True),
    "ConvTranspose2d": _conv_transpose(2, False),
    "Embed": LayerCase(
        lambda: nn.Embedding(7, 3),
        lambda rngs: nnx.Embed(7, 3, rngs=rngs, **DTYPE),
        lambda: linen.Embed(7, 3, **DTYPE),
        (),
    ),
    "LayerNorm": _norm(lambda: nn.LayerNorm(6), "LayerNorm")._replace(**FEATURES_LAST),
    "LayerNorm without bias": _norm(
        lambda: nn.LayerNorm(6, bias=False), "LayerNorm", use_bias=False
    )._replace(**FEATURES_LAST),
    "GroupNorm": _norm(lambda: nn.GroupNorm(3, 6), "GroupNorm", 3),
    "InstanceNorm": _norm(lambda: nn.InstanceNorm2d(6, affine=True), "InstanceNorm"),
    "RMSNorm": _norm(lambda: nn.RMSNorm(6, eps=1e-6), "RMSNorm", epsilon=1e-6)._replace(**FEATURES_LAST),
    "BatchNorm": _norm(lambda: nn.BatchNorm2d(6), "BatchNorm", **EVAL),
    "BatchNorm without scale and bias": _norm(
        lambda: nn.BatchNorm1d(6, affine=False), "BatchNorm", **EVAL, **NO_AFFINE
    )._replace(**{**FEATURES_LAST, "shape": (4, 6)}),
    "WeightNorm of Linear, weight_g": _weight_norm(_linear(), old=True),
    "WeightNorm of Linear, original0": _weight_norm(_linear()),
    "WeightNorm of Linear, dim=None": _weight_norm(_linear(), feature_axes=None, dim=None),
    "WeightNorm of Conv2d": _weight_norm(_conv(2)),
    "WeightNorm of ConvTranspose1d": _weight_norm(_conv_transpose(1, True), old=True),
    "WeightNorm of ConvTranspose2d, flipped": _weight_norm(_conv_transpose(2, False), feature_axes=-2),
    "MultiHeadAttention": _attention(None),
    "MultiHeadAttention, separate": _attention(3),
    "MultiHeadAttention without bias": _attention(None, bias=False),
    "PReLU": LayerCase(nn.PReLU, lambda rngs: nnx.PReLU(**DTYPE), lambda: linen.PReLU(**DTYPE), (2, 3)),
    "jaxlstm LSTM": _lstm(num_layers=2, bidirectional=True),
    "jaxlstm LSTM, projected": _lstm(proj_size=2),
    "jaxlstm LSTMCell": _cell(nn.LSTMCell, jaxlstm.nnx.LSTMCell, partial(jaxlstm.linen.LSTMCell, 3)),
    "RNN of jaxlstm LSTMCell": _rnn(nn.LSTM, "LSTMCell")._replace(
        flax=lambda rngs: nnx.RNN(jaxlstm.nnx.LSTMCell(3, 4, rngs=rngs, **DTYPE)),
        linen=lambda: linen.RNN(jaxlstm.linen.LSTMCell(3, 4, **DTYPE)),
    ),
    "LSTMCell": _cell(nn.LSTMCell, nnx.LSTMCell, linen.LSTMCell),
    "OptimizedLSTMCell": _cell(nn.LSTMCell, nnx.OptimizedLSTMCell, linen.OptimizedLSTMCell),
    "RNN of LSTMCell": _rnn(nn.LSTM, "LSTMCell"),
    "RNN of OptimizedLSTMCell without biases": _rnn(nn.LSTM, "OptimizedLSTMCell", bias=False),
    "Bidirectional of OptimizedLSTMCell": _rnn(nn.LSTM, "OptimizedLSTMCell", bidirectional=True),
    "GRUCell": _without_candidate_bias(_cell(nn.GRUCell, nnx.GRUCell, linen.GRUCell)),
    "RNN of GRUCell": _without_candidate_bias(_rnn(nn.GRU, "GRUCell")),
}

# Flax keeps one bias of two, so that the torch state dict cannot be restored.
LOSSY = {name for name in CASES if "LSTMCell" in name and "jaxlstm" not in name} | {
    "GRUCell",
    "RNN of GRUCell",
}


def example(case: LayerCase) -> np.ndarray:
    """Return an input in torch's layout."""
    if not case.shape:
        return np.array([[0, 3, 6], [3, 1, 2]])
    return np.random.default_rng(0).standard_normal(case.shape)


def call_arguments(case: LayerCase, x: Any) -> tuple[Any, ...]:
    """Return the positional arguments with which ``run_flax`` calls a layer."""
    calls: list[tuple[Any, ...]] = []

    def layer(*args: Any) -> tuple[Any, Any]:
        calls.append(args)
        return args[0], args[0]

    case.run_flax(layer, case.to_flax(x))
    return calls[0]
