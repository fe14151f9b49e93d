"""Rules: the tensors of a torch layer and the arrays of the Flax layer that hold the same numbers.

NNX and Linen layers share a rule. The name of an array is the same in both, so a rule sees no difference.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np
from flax import nnx

from jaxlstm_converters.flax.layer import (
    SAME,
    FlaxLayer,
    Shape,
    TensorPair,
    WeightLayout,
    chain,
    flip,
    linear,
    only_in_torch,
    pair,
    reshape,
    split,
    transpose,
)

Rule = Callable[[FlaxLayer], list[TensorPair]]

_PROJECTIONS = {"query": "q_proj_weight", "key": "k_proj_weight", "value": "v_proj_weight"}
# NNX keeps the scales of WeightNorm in a dict. Linen joins the path in the name of the parameter.
_SCALES = re.compile(r"scales\..*|.*/scale")
_KERNEL_SCALE = re.compile(r"scales\.kernel|[^/]+/kernel/scale")


def dense(layer: FlaxLayer) -> list[TensorPair]:
    """Dense layers: torch's weight is (out, in), Flax's kernel (in, out)."""
    return [pair("weight", "kernel", transpose(1, 0)), *_bias(layer)]


def dense_general(layer: FlaxLayer) -> list[TensorPair]:
    """Dense layers over several axes: the matrix of torch, reshaped."""
    module = layer.module
    if module.batch_axis if isinstance(module, nnx.LinearGeneral) else module.batch_dims:
        raise ValueError("a batch axis of the kernel has no counterpart in torch")
    outputs = module.out_features if isinstance(module, nnx.LinearGeneral) else module.features
    kernel = layer.shape("kernel")
    inputs = len(kernel) - (1 if isinstance(outputs, int) else len(outputs))
    bias = _bias(layer, lambda shape: reshape((math.prod(shape),), shape))
    return [pair("weight", "kernel", linear(kernel, inputs)), *bias]


def conv(layer: FlaxLayer) -> list[TensorPair]:
    """Convolutions: torch's weight is (O, I/groups, *k), Flax's kernel (*k, I/groups, O)."""
    spatial = range(2, len(layer.shape("kernel")))
    return [pair("weight", "kernel", transpose(*spatial, 1, 0)), *_bias(layer)]


def conv_transpose(layer: FlaxLayer) -> list[TensorPair]:
    """Transposed convolutions: torch's weight is (I, O, *k).

    With ``transpose_kernel`` Flax's kernel is (*k, O, I). Without, it is (*k, I, O) and spatially flipped.
    """
    spatial = range(2, len(layer.shape("kernel")))
    if layer.module.transpose_kernel:
        layout = transpose(*spatial, 1, 0)
    else:
        layout = chain(transpose(*spatial, 0, 1), flip(*range(len(spatial))))
    hint = "Flax's ConvTranspose has no groups"
    return [pair("weight", "kernel", layout, hint=hint), *_bias(layer)]


def embed(layer: FlaxLayer) -> list[TensorPair]:
    """Embeddings: the same array."""
    return [pair("weight", "embedding")]


def norm(layer: FlaxLayer) -> list[TensorPair]:
    """Normalizations: scale is torch's weight; either may be absent."""
    names = (("weight", "scale"), ("bias", "bias"))
    return [pair(torch, flax) for torch, flax in names if flax in layer.slots]


def batch_norm(layer: FlaxLayer) -> list[TensorPair]:
    """BatchNorm: as other norms, with statistics.

    Flax does not count batches. torch reads the count only with ``momentum=None``, so zero is written.
    """
    statistics = [pair("running_mean", "mean"), pair("running_var", "var")]
    count = TensorPair(("num_batches_tracked",), (), only_in_torch(np.zeros((), np.int64)))
    return [*norm(layer), *statistics, count]


def prelu(layer: FlaxLayer) -> list[TensorPair]:
    """PReLU: torch's weight has the shape (1,), Flax's slope ()."""
    hint = "Flax's PReLU has one slope for all channels"
    return [pair("weight", "negative_slope", reshape((1,), ()), hint=hint)]


def attention(layer: FlaxLayer) -> list[TensorPair]:
    """MultiHeadAttention: torch's projections, packed in one tensor or separate, and Flax's linear layers.

    torch packs the weights if queries, keys and values have the size of the embedding. A source with linear
    layers named ``query``, ``key`` and ``value`` is left to the rule of those layers.
    """
    if layer.has("query.weight"):
        return []
    kernels = {f"{name}.kernel": layer.shape(f"{name}.kernel") for name in _PROJECTIONS}
    features = {kernel[0] for kernel in kernels.values()}
    if layer.has("in_proj_weight") or (not layer.has("q_proj_weight") and len(features) == 1):
        layout = chain(split(3), linear(layer.shape("query.kernel")))
        pairs = [TensorPair(("in_proj_weight",), tuple(kernels), layout)]
    else:
        named = zip(_PROJECTIONS.values(), kernels.items(), strict=True)
        pairs = [pair(torch, name, linear(kernel)) for torch, (name, kernel) in named]
    if "query.bias" in layer.slots:
        heads = layer.shape("query.bias")
        layout = chain(split(3), reshape((math.prod(heads),), heads))
        pairs.append(TensorPair(("in_proj_bias",), tuple(f"{name}.bias" for name in _PROJECTIONS), layout))
    pairs.append(pair("out_proj.weight", "out.kernel", linear(layer.shape("out.kernel"), inputs=2)))
    return pairs + [pair("out_proj.bias", "out.bias")] * ("out.bias" in layer.slots)


def weight_norm(layer: FlaxLayer, inner: Rule | None) -> list[TensorPair]:
    """WeightNorm: the pairs of the wrapped layer, with v for its kernel and g for the scale.

    torch spells v and g ``weight_v`` and ``weight_g``, or ``parametrizations.weight.original1`` and
    ``original0``. Names in the new spelling are replaced when a source is read, and torch accepts the old
    one for both. g has the size of the weight on the feature axes, and size 1 on all others.
    """
    module, below = layer.module, "layer_instance"
    scales = [name for name in layer.slots if _SCALES.fullmatch(name)]
    if inner is None or len(scales) != 1 or not _KERNEL_SCALE.fullmatch(scales[0]):
        raise ValueError(
            "WeightNorm is supported around one layer with the default variable_filter and use_scale; wrap "
            "each layer separately"
        )
    wrapped = layer.below(below, module.layer_instance)
    pairs = []
    for own in inner(wrapped):
        if own.torch == ("weight",):
            length = _length_layout(own.layout, wrapped.shape("kernel"), module.feature_axes)
            pairs.append(pair("weight_g", scales[0], length))
            own = dataclasses.replace(own, torch=("weight_v",))
        pairs.append(own.below(below))
    return pairs


def _length_layout(
    weight: WeightLayout, kernel: Shape, feature_axes: int | tuple[int, ...] | None
) -> WeightLayout:
    """Return the layout of g from the layout of v: Flax's scale has only the kernel's feature axes."""
    axes = (feature_axes,) if isinstance(feature_axes, int) else feature_axes or ()
    kept = {axis % len(kernel) for axis in axes}
    if not kept:  # one length for the whole weight, a scalar in torch too
        return SAME
    with_ones = tuple(size if axis in kept else 1 for axis, size in enumerate(kernel))
    return chain(weight, reshape(with_ones, tuple(kernel[axis] for axis in sorted(kept))))


def _bias(layer: FlaxLayer, layout: Callable[[Shape], WeightLayout] = lambda shape: SAME) -> list[TensorPair]:
    return [pair("bias", "bias", layout(layer.shape("bias")))] if "bias" in layer.slots else []
