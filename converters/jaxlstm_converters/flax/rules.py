"""Rules: the tensors of a torch layer and the arrays of the Flax layer that hold the same numbers.

NNX and Linen layers share a rule. The name of an array is the same in both, so a rule sees no difference.

Flax's LSTM cells keep one bias, the sum of torch's two. Its GRU cells keep only the sum for the gates r and
z; nnx.GRUCell has no bias in the recurrent term of the candidate (https://github.com/google/flax/issues/5594).
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import nnx

import jaxlstm.linen.modules
import jaxlstm.nnx
from jaxlstm_converters.flax.layer import (
    KERNEL,
    SAME,
    Arrays,
    FlaxLayer,
    Shape,
    TensorPair,
    WeightLayout,
    chain,
    flip,
    linear,
    only_in_flax,
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


def conv(layer: FlaxLayer) -> list[TensorPair]:
    """Dense layers and convolutions: torch's weight is (O, I/groups, *k), Flax's kernel (*k, I/groups, O)."""
    return [pair("weight", "kernel", KERNEL), *_bias(layer)]


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


def conv_transpose(layer: FlaxLayer) -> list[TensorPair]:
    """Transposed convolutions: torch's weight is (I, O, *k).

    With ``transpose_kernel`` Flax's kernel is (*k, O, I). Without, it is (*k, I, O) and spatially flipped.
    """
    ndim = len(layer.shape("kernel"))
    flipped = chain(transpose(*range(2, ndim), 0, 1), flip(*range(ndim - 2)))
    layout = KERNEL if layer.module.transpose_kernel else flipped
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
        projections = zip(_PROJECTIONS.values(), kernels.items(), strict=True)
        pairs = [pair(torch, name, linear(kernel)) for torch, (name, kernel) in projections]
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
    module, submodule = layer.module, "layer_instance"
    scales = [name for name in layer.slots if _SCALES.fullmatch(name)]
    if inner is None or len(scales) != 1 or not _KERNEL_SCALE.fullmatch(scales[0]):
        raise ValueError(
            "WeightNorm is supported around one layer with the default variable_filter and use_scale; wrap "
            "each layer separately"
        )
    wrapped = layer.below(submodule, module.layer_instance)
    pairs = []
    for inner_pair in inner(wrapped):
        if inner_pair.torch == ("weight",):
            length = _length_layout(inner_pair.layout, wrapped.shape("kernel"), module.feature_axes)
            pairs.append(pair("weight_g", scales[0], length))
            inner_pair = dataclasses.replace(inner_pair, torch=("weight_v",))
        pairs.append(inner_pair.below(submodule))
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


_SUMMED = "bias_ih and bias_hh are summed, because Flax's cell has one bias"
_NO_BIASES = "the torch layer has no biases; the bias of Flax's cell is set to zero"
_LOSS = "the sum of bias_ih and bias_hh is written as bias_ih, and bias_hh as zeros"


def rnn(layer: FlaxLayer) -> list[TensorPair]:
    """``RNN`` of a cell: a torch.nn.LSTM or GRU with one layer, or the same cell in torch."""
    return _cell_in(layer, "cell", layer.module.cell, "" if layer.has("weight_ih") else "_l0")


def bidirectional(layer: FlaxLayer) -> list[TensorPair]:
    """``Bidirectional`` of two ``RNN``: a bidirectional torch.nn.LSTM or GRU with one layer."""
    module = layer.module
    return [
        *_cell_in(layer, "forward_rnn.cell", module.forward_rnn.cell, "_l0"),
        *_cell_in(layer, "backward_rnn.cell", module.backward_rnn.cell, "_l0_reverse"),
    ]


def lone_cell(layer: FlaxLayer) -> list[TensorPair]:
    """A cell outside ``RNN``: a cell in torch, or an LSTM or GRU with one layer."""
    return _cell(layer, "_l0" if layer.has("weight_ih_l0") else "")


def _cell_in(layer: FlaxLayer, name: str, cell: Any, suffix: str) -> list[TensorPair]:
    """Return the pairs of a cell below a layer."""
    return [cell_pair.below(name) for cell_pair in _cell(layer.below(name, cell), suffix)]


def _cell(layer: FlaxLayer, suffix: str) -> list[TensorPair]:
    """Return the pairs of a cell; none if the cell has no rule. A torch layer without biases has zeros."""
    row = next((_CELLS[base] for base in type(layer.module).__mro__ if base in _CELLS), None)
    if row is None:  # a cell of jaxlstm, which has torch's names
        return [pair(name + suffix, name) for name in layer.slots if isinstance(layer.module, _OUR_CELLS)]
    pairs = []
    for torch, kernels in (("weight_ih", row.inputs), ("weight_hh", row.hidden)):
        layout = chain(transpose(1, 0), split(len(kernels), axis=1))
        pairs.append(TensorPair((torch + suffix,), tuple(f"{name}.kernel" for name in kernels), layout))
    torch, names = (f"bias_ih{suffix}", f"bias_hh{suffix}"), tuple(f"{name}.bias" for name in row.biases)
    if layer.has(f"weight_ih{suffix}") and not any(map(layer.has, torch)):
        zeros = only_in_flax(*(np.zeros(layer.shape(name), np.int8) for name in names))
        return [*pairs, TensorPair((), names, zeros, note=_NO_BIASES)]
    return [*pairs, TensorPair(torch, names, row.layout, note=_SUMMED)]


def _with_zeros(arrays: Arrays) -> Arrays:
    """Return the sum as bias_ih, and zeros as bias_hh."""
    return arrays[0], np.zeros_like(arrays[0])


def _sum_without_candidate_bias(arrays: Arrays) -> Arrays:
    """Add the biases of a GRU. Raise ValueError unless b_hn is zero, for which Flax has no place."""
    bias_ih, bias_hh = arrays
    if bias_hh[2 * len(bias_hh) // 3 :].any():
        raise ValueError(
            "nnx.GRUCell has no bias in the recurrent term of the candidate, but b_hn (the last third of "
            "bias_hh) is not zero; see https://github.com/google/flax/issues/5594. flax.linen.GRUCell "
            "has this bias"
        )
    return (bias_ih + bias_hh,)


def _gate_biases_to_flax(arrays: Arrays) -> Arrays:
    """Return b_r, b_z, b_in and b_hn of a GRU: sums for r and z, and both biases of the candidate."""
    inputs, hidden = (np.split(array, 3) for array in arrays)
    return inputs[0] + hidden[0], inputs[1] + hidden[1], inputs[2], hidden[2]


def _gate_biases_to_torch(arrays: Arrays) -> Arrays:
    """Return bias_ih with the sums, and bias_hh with zeros for r and z."""
    zeros = np.zeros_like(arrays[3])
    return np.concatenate(arrays[:3]), np.concatenate([zeros, zeros, arrays[3]])


_SUM = WeightLayout(lambda arrays: (arrays[0] + arrays[1],), _with_zeros, _LOSS)
_NO_CANDIDATE_BIAS = WeightLayout(_sum_without_candidate_bias, _with_zeros, _LOSS)
_GATE_BIASES = WeightLayout(_gate_biases_to_flax, _gate_biases_to_torch, _LOSS)


class _FlaxCell(NamedTuple):
    """The parts of a cell with the kernels of the input and of the state, and those with the biases."""

    inputs: tuple[str, ...]
    hidden: tuple[str, ...]
    biases: tuple[str, ...]
    layout: WeightLayout


_HIDDEN = ("hi", "hf", "hg", "ho")
# NNX cannot have an attribute named "if".
_NNX_LSTM, _LINEN_LSTM = (
    _FlaxCell(("ii", name, "ig", "io"), _HIDDEN, _HIDDEN, chain(_SUM, split(4))) for name in ("if_", "if")
)
# NNX packs the gates of these cells as torch does.
_CELLS: dict[type, _FlaxCell] = {
    nnx.LSTMCell: _NNX_LSTM,
    **dict.fromkeys((nn.LSTMCell, nn.OptimizedLSTMCell), _LINEN_LSTM),
    nnx.OptimizedLSTMCell: _FlaxCell(("dense_i",), ("dense_h",), ("dense_h",), _SUM),
    nnx.GRUCell: _FlaxCell(("dense_i",), ("dense_h",), ("dense_i",), _NO_CANDIDATE_BIAS),
    nn.GRUCell: _FlaxCell(("ir", "iz", "in"), ("hr", "hz", "hn"), ("ir", "iz", "in", "hn"), _GATE_BIASES),
}
_OUR_CELLS = (jaxlstm.nnx.LSTMCell, jaxlstm.linen.modules.LSTMCell, jaxlstm.nnx.GRUCell)
