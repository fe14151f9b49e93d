"""Rules of recurrent cells of Flax and of this library, also in ``RNN`` and ``Bidirectional``.

Flax's LSTM cells keep one bias, the sum of torch's two. Its GRU cells keep only the sum for the gates r and
z; nnx.GRUCell has no bias in the recurrent term of the candidate (https://github.com/google/flax/issues/5594).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np
from flax import nnx

import jaxlstm.linen.modules
import jaxlstm.nnx
from jaxlstm_converters.flax.layer import (
    Arrays,
    FlaxLayer,
    TensorPair,
    WeightLayout,
    chain,
    only_in_flax,
    pair,
    split,
    transpose,
)

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
    return [own.below(name) for own in _cell(layer.below(name, cell), suffix)]


def _cell(layer: FlaxLayer, suffix: str) -> list[TensorPair]:
    """Return the pairs of a cell; none if the cell has no rule."""
    rule = next((_CELLS[base] for base in type(layer.module).__mro__ if base in _CELLS), None)
    return rule(layer, suffix) if rule else []


def _lstm_cell(layer: FlaxLayer, suffix: str) -> list[TensorPair]:
    """Flax's LSTMCell, with a linear layer for each gate."""
    if "ii.kernel" not in layer.slots:
        return _packed_gates(layer, suffix, "dense_h.bias", _SUM)
    # NNX cannot have an attribute named "if".
    inputs = ("ii", "if_" if "if_.kernel" in layer.slots else "if", "ig", "io")
    hidden = ("hi", "hf", "hg", "ho")
    return [
        *_kernels(inputs, hidden, suffix),
        _biases(layer, tuple(f"{gate}.bias" for gate in hidden), chain(_SUM, split(4)), suffix),
    ]


def _gru_cell(layer: FlaxLayer, suffix: str) -> list[TensorPair]:
    """Flax's GRUCell: NNX packs the gates r, z, n as torch does, Linen has a linear layer for each."""
    if "ir.kernel" not in layer.slots:
        return _packed_gates(layer, suffix, "dense_i.bias", _NO_CANDIDATE_BIAS)
    return [
        *_kernels(("ir", "iz", "in"), ("hr", "hz", "hn"), suffix),
        _biases(layer, ("ir.bias", "iz.bias", "in.bias", "hn.bias"), _GATE_BIASES, suffix),
    ]


def _our_cell(layer: FlaxLayer, suffix: str) -> list[TensorPair]:
    """jaxlstm's LSTMCell, which has torch's names."""
    return [pair(name + suffix, name) for name in layer.slots]


def _packed_gates(layer: FlaxLayer, suffix: str, bias: str, layout: WeightLayout) -> list[TensorPair]:
    return [
        pair(f"weight_ih{suffix}", "dense_i.kernel", transpose(1, 0)),
        pair(f"weight_hh{suffix}", "dense_h.kernel", transpose(1, 0)),
        _biases(layer, (bias,), layout, suffix),
    ]


def _kernels(inputs: tuple[str, ...], hidden: tuple[str, ...], suffix: str) -> list[TensorPair]:
    layout = chain(transpose(1, 0), split(len(inputs), axis=1))
    return [
        TensorPair((torch + suffix,), tuple(f"{gate}.kernel" for gate in gates), layout)
        for torch, gates in (("weight_ih", inputs), ("weight_hh", hidden))
    ]


def _biases(layer: FlaxLayer, names: tuple[str, ...], layout: WeightLayout, suffix: str) -> TensorPair:
    """Return the pairing of torch's two biases. A torch layer without biases has zeros."""
    torch = (f"bias_ih{suffix}", f"bias_hh{suffix}")
    if layer.has(f"weight_ih{suffix}") and not any(map(layer.has, torch)):
        zeros = only_in_flax(*(np.zeros(layer.shape(name), np.int8) for name in names))
        return TensorPair((), names, zeros, note=_NO_BIASES)
    return TensorPair(torch, names, layout, note=_SUMMED)


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

_CELLS: dict[type, Callable[[FlaxLayer, str], list[TensorPair]]] = {
    **dict.fromkeys((nnx.LSTMCell, nn.LSTMCell, nnx.OptimizedLSTMCell, nn.OptimizedLSTMCell), _lstm_cell),
    **dict.fromkeys((nnx.GRUCell, nn.GRUCell), _gru_cell),
    **dict.fromkeys((jaxlstm.nnx.LSTMCell, jaxlstm.linen.modules.LSTMCell), _our_cell),
}
