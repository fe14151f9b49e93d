"""Recurrent cells of Flax and of this library, also in ``RNN`` and ``Bidirectional``.

Flax's LSTM cells keep one bias, the sum of torch's two. Its GRU cells keep only the sum for the gates r and
z; nnx.GRUCell has no bias in the recurrent term of the candidate (https://github.com/google/flax/issues/5594).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np
from flax import nnx

import jaxlstm.linen.modules
import jaxlstm.nnx
from jaxlstm_converters.flax.layer import Entry, Layer, entry
from jaxlstm_converters.flax.layouts import Arrays, Layout, OnlyInFlax, Split, SumOfBiases, Transpose, chain

_SUMMED = "bias_ih and bias_hh are summed, because Flax's cell has one bias"
_NO_BIASES = "the torch layer has no biases; the bias of Flax's cell is set to zero"
_BIASES = ("bias_ih", "bias_hh")


def rnn_rule(layer: Layer) -> list[Entry]:
    """``RNN`` of a cell: a torch.nn.LSTM or GRU with one layer, or the same cell in torch."""
    return _cell_in(layer, "cell", layer.module.cell, "" if layer.has("weight_ih") else "_l0")


def bidirectional_rule(layer: Layer) -> list[Entry]:
    """``Bidirectional`` of two ``RNN``: a bidirectional torch.nn.LSTM or GRU with one layer."""
    module = layer.module
    return [
        *_cell_in(layer, "forward_rnn.cell", module.forward_rnn.cell, "_l0"),
        *_cell_in(layer, "backward_rnn.cell", module.backward_rnn.cell, "_l0_reverse"),
    ]


def _cell_in(layer: Layer, name: str, cell: Any, suffix: str) -> list[Entry]:
    """Return the entries of a cell below a layer; none if the cell has no rule."""
    rule = next((_CELLS[base] for base in type(cell).__mro__ if base in _CELLS), None)
    entries = rule(layer.below(name, cell), suffix) if rule else []
    return [dataclasses.replace(e, flax=tuple(f"{name}.{own}" for own in e.flax)) for e in entries]


def lone_cell_rule(layer: Layer) -> list[Entry]:
    """A cell outside ``RNN``: a cell in torch, or an LSTM or GRU with one layer."""
    rule = next(_CELLS[base] for base in type(layer.module).__mro__ if base in _CELLS)
    return rule(layer, "_l0" if layer.has("weight_ih_l0") else "")


def _lstm_cell(layer: Layer, suffix: str) -> list[Entry]:
    """Flax's LSTMCell, with a linear layer for each gate."""
    if "ii.kernel" not in layer.slots:
        return _packed_gates(layer, suffix, "dense_h.bias", SumOfBiases())
    # NNX cannot have an attribute named "if".
    gates = ("i", "f", "g", "o"), ("i", "f_" if "if_.kernel" in layer.slots else "f", "g", "o")
    biases = tuple(f"h{gate}.bias" for gate in gates[0])
    return [
        _kernels("weight_ih", tuple(f"i{gate}.kernel" for gate in gates[1]), suffix),
        _kernels("weight_hh", tuple(f"h{gate}.kernel" for gate in gates[0]), suffix),
        _biases(layer, biases, chain(SumOfBiases(), Split(4)), suffix),
    ]


def _gru_cell(layer: Layer, suffix: str) -> list[Entry]:
    """Flax's GRUCell: NNX packs the gates r, z, n as torch does, Linen has a linear layer for each."""
    if "ir.kernel" not in layer.slots:
        return _packed_gates(layer, suffix, "dense_i.bias", NoCandidateBias())
    return [
        _kernels("weight_ih", ("ir.kernel", "iz.kernel", "in.kernel"), suffix),
        _kernels("weight_hh", ("hr.kernel", "hz.kernel", "hn.kernel"), suffix),
        _biases(layer, ("ir.bias", "iz.bias", "in.bias", "hn.bias"), GateBiases(), suffix),
    ]


def _our_cell(layer: Layer, suffix: str) -> list[Entry]:
    """jaxlstm's LSTMCell, which has torch's names."""
    return [entry(name + suffix, name) for name in layer.slots]


def _packed_gates(layer: Layer, suffix: str, bias: str, layout: Layout) -> list[Entry]:
    return [
        entry(f"weight_ih{suffix}", "dense_i.kernel", Transpose((1, 0))),
        entry(f"weight_hh{suffix}", "dense_h.kernel", Transpose((1, 0))),
        _biases(layer, (bias,), layout, suffix),
    ]


def _kernels(torch: str, names: tuple[str, ...], suffix: str) -> Entry:
    return Entry((torch + suffix,), names, chain(Transpose((1, 0)), Split(len(names), axis=1)))


def _biases(layer: Layer, names: tuple[str, ...], layout: Layout, suffix: str) -> Entry:
    """Return the entry of torch's two biases. A torch layer without biases has zeros."""
    torch = tuple(name + suffix for name in _BIASES)
    if layer.has(f"weight_ih{suffix}") and not any(map(layer.has, torch)):
        zeros = tuple(np.zeros(layer.shape(name), np.int8) for name in names)
        return Entry((), names, OnlyInFlax(zeros), note=_NO_BIASES)
    return Entry(torch, names, layout, note=_SUMMED)


class NoCandidateBias(Layout):
    """The biases of a GRU in one array, which has no place for b_hn."""

    loss = SumOfBiases.loss

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Add the biases. Raise ValueError unless b_hn is zero."""
        bias_ih, bias_hh = arrays
        if bias_hh[2 * len(bias_hh) // 3 :].any():
            raise ValueError(
                "nnx.GRUCell has no bias in the recurrent term of the candidate, but b_hn (the last third of "
                "bias_hh) is not zero; see https://github.com/google/flax/issues/5594. flax.linen.GRUCell "
                "has this bias"
            )
        return (bias_ih + bias_hh,)

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Return the sum, and zeros."""
        return arrays[0], np.zeros_like(arrays[0])


class GateBiases(Layout):
    """The biases of a GRU: sums for r and z, and both biases of the candidate."""

    loss = SumOfBiases.loss

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Return b_r, b_z, b_in and b_hn."""
        inputs, hidden = (np.split(array, 3) for array in arrays)
        return inputs[0] + hidden[0], inputs[1] + hidden[1], inputs[2], hidden[2]

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Return bias_ih with the sums, and bias_hh with zeros for r and z."""
        zeros = np.zeros_like(arrays[3])
        return np.concatenate(arrays[:3]), np.concatenate([zeros, zeros, arrays[3]])


_CELLS: dict[type, Callable[[Layer, str], list[Entry]]] = {
    nnx.LSTMCell: _lstm_cell,
    nn.LSTMCell: _lstm_cell,
    nnx.OptimizedLSTMCell: _lstm_cell,
    nn.OptimizedLSTMCell: _lstm_cell,
    nnx.GRUCell: _gru_cell,
    nn.GRUCell: _gru_cell,
    jaxlstm.nnx.LSTMCell: _our_cell,
    jaxlstm.linen.modules.LSTMCell: _our_cell,
}
CELLS = tuple(_CELLS)
