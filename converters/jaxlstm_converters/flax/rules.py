"""The table of layers: for each type of Flax layer, its tensors in torch and their layouts.

NNX and Linen layers share a rule. The name of an array is the same in both, so a rule sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax import nnx

from jaxlstm_converters.flax import attention, recurrent, weight_norm
from jaxlstm_converters.flax.layer import Entry, Layer, entry
from jaxlstm_converters.flax.layouts import (
    SAME,
    Flip,
    Functions,
    Layout,
    OnlyInTorch,
    Reshape,
    Transpose,
    chain,
    linear,
)

Rule = Callable[[Layer], list[Entry]]


def linear_rule(layer: Layer) -> list[Entry]:
    """Dense layers: torch's weight is (out, in), Flax's kernel (in, out)."""
    return [entry("weight", "kernel", Transpose((1, 0))), *_bias(layer)]


def linear_general_rule(layer: Layer) -> list[Entry]:
    """Dense layers over several axes: the matrix of torch, reshaped."""
    module = layer.module
    if module.batch_axis if isinstance(module, nnx.LinearGeneral) else module.batch_dims:
        raise ValueError("a batch axis of the kernel has no counterpart in torch")
    outputs = module.out_features if isinstance(module, nnx.LinearGeneral) else module.features
    outputs = 1 if isinstance(outputs, int) else len(outputs)
    kernel = layer.shape("kernel")
    return [
        entry("weight", "kernel", linear(kernel, len(kernel) - outputs)),
        *_bias(layer, lambda shape: Reshape((int(np.prod(shape)),), shape)),
    ]


def conv_rule(layer: Layer) -> list[Entry]:
    """Convolutions: torch's weight is (O, I/groups, *k), Flax's kernel (*k, I/groups, O)."""
    spatial = len(layer.shape("kernel")) - 2
    return [entry("weight", "kernel", Transpose((*range(2, spatial + 2), 1, 0))), *_bias(layer)]


def conv_transpose_rule(layer: Layer) -> list[Entry]:
    """Transposed convolutions: torch's weight is (I, O, *k).

    With ``transpose_kernel`` Flax's kernel is (*k, O, I). Without, it is (*k, I, O) and spatially flipped.
    """
    spatial = len(layer.shape("kernel")) - 2
    axes = tuple(range(2, spatial + 2))
    if layer.module.transpose_kernel:
        layout: Layout = Transpose((*axes, 1, 0))
    else:
        layout = chain(Transpose((*axes, 0, 1)), Flip(tuple(range(spatial))))
    hint = "Flax's ConvTranspose has no groups"
    return [entry("weight", "kernel", layout, hint=hint), *_bias(layer)]


def embed_rule(layer: Layer) -> list[Entry]:
    """Embeddings: the same array."""
    return [entry("weight", "embedding")]


def norm_rule(layer: Layer) -> list[Entry]:
    """Normalizations: scale is torch's weight; either may be absent."""
    names = (("weight", "scale"), ("bias", "bias"))
    return [entry(torch, flax) for torch, flax in names if flax in layer.slots]


def batch_norm_rule(layer: Layer) -> list[Entry]:
    """BatchNorm: as other norms, with statistics.

    Flax does not count batches. torch reads the count only with ``momentum=None``, so zero is written.
    """
    count = OnlyInTorch((np.zeros((), np.int64),))
    return [
        *norm_rule(layer),
        entry("running_mean", "mean"),
        entry("running_var", "var"),
        Entry(("num_batches_tracked",), (), count),
    ]


def prelu_rule(layer: Layer) -> list[Entry]:
    """PReLU: torch's weight has the shape (1,), Flax's slope ()."""
    hint = "Flax's PReLU has one slope for all channels"
    return [entry("weight", "negative_slope", Reshape((1,), ()), hint=hint)]


def _bias(layer: Layer, layout: Callable[[tuple[int, ...]], Layout] = lambda shape: SAME) -> list[Entry]:
    return [entry("bias", "bias", layout(layer.shape("bias")))] if "bias" in layer.slots else []


RULES: dict[type, Rule] = {
    nnx.Linear: linear_rule,
    nn.Dense: linear_rule,
    nnx.LinearGeneral: linear_general_rule,
    nn.DenseGeneral: linear_general_rule,
    nnx.Conv: conv_rule,
    nn.Conv: conv_rule,
    nnx.ConvTranspose: conv_transpose_rule,
    nn.ConvTranspose: conv_transpose_rule,
    nnx.Embed: embed_rule,
    nn.Embed: embed_rule,
    nnx.BatchNorm: batch_norm_rule,
    nn.BatchNorm: batch_norm_rule,
    nnx.LayerNorm: norm_rule,
    nn.LayerNorm: norm_rule,
    nnx.GroupNorm: norm_rule,
    nn.GroupNorm: norm_rule,
    nnx.InstanceNorm: norm_rule,
    nn.InstanceNorm: norm_rule,
    nnx.RMSNorm: norm_rule,
    nn.RMSNorm: norm_rule,
    nnx.PReLU: prelu_rule,
    nn.PReLU: prelu_rule,
    nnx.MultiHeadAttention: attention.rule,
    nn.MultiHeadDotProductAttention: attention.rule,
    nnx.RNN: recurrent.rnn_rule,
    nn.RNN: recurrent.rnn_rule,
    nnx.Bidirectional: recurrent.bidirectional_rule,
    nn.Bidirectional: recurrent.bidirectional_rule,
    **dict.fromkeys(recurrent.CELLS, recurrent.lone_cell_rule),
}
RULES[nnx.WeightNorm] = RULES[nn.WeightNorm] = lambda layer: weight_norm.rule(layer, find_rule)


def find_rule(module: Any) -> Rule | None:
    """Return the rule of a module's type or of its nearest base class."""
    return next((RULES[base] for base in type(module).__mro__ if base in RULES), None)


UserRow = str | tuple[str, Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]]


def register_layer(
    layer_type: type, tensors: Mapping[str, UserRow] | Callable[[Any], Mapping[str, UserRow]]
) -> None:
    """Register the names and layouts of your own layer type for ``load_state_dict`` and ``state_dict``.

    >>> jaxlstm.register_layer(  # doctest: +SKIP
    ...     MyDense, {"weight": ("kernel", np.transpose, np.transpose), "bias": "bias"}
    ... )

    The rule also holds for subclasses, and replaces an earlier rule of the same type. A layer whose arrays
    have torch's names and shapes needs no rule.

    Args:
      layer_type: a class of NNX or Linen modules.
      tensors: name in torch -> name of the array in the layer, or ``(name, to_flax, to_torch)`` with two
        functions of one array that are inverse to each other. Names are relative to the layer, with dots. A
        function gets the layer and returns such a dict.

    Raises:
      TypeError: ``layer_type`` is not a class of Flax modules.
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nnx.Module | nn.Module)):
        raise TypeError(f"layer_type must be a subclass of nnx.Module or linen.Module, got {layer_type!r}")

    def rule(layer: Layer) -> list[Entry]:
        rows = tensors(layer.module) if callable(tensors) else tensors
        return [
            entry(torch, row) if isinstance(row, str) else entry(torch, row[0], Functions(row[1], row[2]))
            for torch, row in rows.items()
        ]

    RULES[layer_type] = rule
