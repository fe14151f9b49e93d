"""torch's LSTM, GRU and RNN, and their cells, on the backends of this package."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax import Array

from jaxlstm.functional import lstm_cell, run_layers
from jaxlstm.layer import gru_rnn
from jaxlstm.layer.config import GRUConfig, LayerConfig, LSTMConfig, RNNConfig
from jaxlstm.layer.params import config_of_weights, param_shapes
from jaxlstm.programs.operators.registry import Kwargs, Options, register_operator

SEQUENCE_LAYERS = {
    "aten.lstm.input": partial(config_of_weights, LSTMConfig),
    "aten.gru.input": partial(config_of_weights, GRUConfig),
    "aten.rnn_tanh.input": partial(config_of_weights, RNNConfig),
    "aten.rnn_relu.input": partial(config_of_weights, RNNConfig, nonlinearity="relu"),
}
"""Operators that run a layer over sequences -> its config from ``has_biases`` and the like."""


def run_layer(
    op: str,
    input: Array,
    hx: Any,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    options: Options,
) -> tuple[Array, ...]:
    """Run an operator of ``SEQUENCE_LAYERS`` over sequences of the lengths ``options.seq_lengths``.

    Args:
      op: the operator.
      input, hx, params, has_biases, num_layers, bidirectional, batch_first: the arguments of the operator;
        ``hx`` is [h, c] for an LSTM. ``dropout`` and ``train`` are without effect.

    Returns:
      (outputs, h_n, c_n) for an LSTM, otherwise (outputs, h_n).
    """
    config: LayerConfig = SEQUENCE_LAYERS[op](
        [leaf.shape for leaf in params],
        has_biases=has_biases,
        num_layers=num_layers,
        bidirectional=bidirectional,
        batch_first=batch_first,
    )

    def recurrent_layer(
        input: Array, hx: Any, seq_lengths: Any, params: Sequence[Array]
    ) -> tuple[Array, Any]:
        weights = dict(zip(param_shapes(config), params, strict=True))
        settings: Any = {"precision": options.precision, "backend": options.backend}
        return run_layers(weights, input, hx, config=config, seq_lengths=seq_lengths, **settings)

    run = jax.jit(recurrent_layer) if options.opaque_layers else recurrent_layer
    state = tuple(hx) if isinstance(hx, list | tuple) else hx
    outputs, final = run(input, state, options.seq_lengths, params)
    return outputs, *(final if isinstance(final, tuple) else (final,))


def drops_elements(kwargs: Kwargs) -> bool:
    """Return True if a layer was exported with dropout between its layers."""
    return bool(kwargs.get("train")) and bool(kwargs.get("dropout")) and kwargs.get("num_layers") != 1


for _op in SEQUENCE_LAYERS:
    register_operator(_op, in_training=drops_elements)(partial(run_layer, _op))


def run_cell(
    config: LayerConfig,
    input: Array,
    hx: Any,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    options: Options,
) -> Any:
    """Run one step of an LSTM, GRU or RNN. Returns (h, c) or h."""
    weights = {"weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh}
    params = {name: leaf for name, leaf in weights.items() if leaf is not None}
    if isinstance(config, LSTMConfig):
        return lstm_cell(params, input, (hx[0], hx[1]), precision=options.precision)
    return gru_rnn.cell_step(config, params, input, hx, precision=options.precision)


# The sizes of a cell follow from its weights.
register_operator("aten.lstm_cell.default")(partial(run_cell, LSTMConfig(1, 1)))
register_operator("aten.gru_cell.default")(partial(run_cell, GRUConfig(1, 1)))
register_operator("aten.rnn_tanh_cell.default")(partial(run_cell, RNNConfig(1, 1)))
register_operator("aten.rnn_relu_cell.default")(partial(run_cell, RNNConfig(1, 1, nonlinearity="relu")))
