"""``torch.nn.LSTM`` and ``torch.nn.LSTMCell``, on the backends of this package."""

from __future__ import annotations

from collections.abc import Sequence

from jax import Array

from jaxlstm.functional import lstm, lstm_cell
from jaxlstm.layer.params import config_of_weights, param_shapes
from jaxlstm.programs.operators.registry import Kwargs, Options, refuse_operators, register_operator

refuse_operators(
    "recurrent networks other than the LSTM are not supported; run_decompositions() of the exported program "
    "replaces them",
    *("gru", "gru_cell", "rnn_tanh", "rnn_tanh_cell", "rnn_relu", "rnn_relu_cell"),
)


def _drops_elements(kwargs: Kwargs) -> bool:
    return bool(kwargs.get("train")) and bool(kwargs.get("dropout")) and kwargs.get("num_layers") != 1


@register_operator("aten.lstm.input", in_training=_drops_elements)
def lstm_input(
    input: Array,
    hx: Sequence[Array],
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    options: Options,
) -> tuple[Array, Array, Array]:
    """Run an LSTM of several layers: :func:`jaxlstm.lstm`. Returns (outputs, h_n, c_n)."""
    config = config_of_weights(
        [leaf.shape for leaf in params],
        has_biases=has_biases,
        num_layers=num_layers,
        bidirectional=bidirectional,
        batch_first=batch_first,
    )
    outputs, (h_n, c_n) = lstm(
        dict(zip(param_shapes(config), params, strict=True)),
        input,
        (hx[0], hx[1]),
        config=config,
        seq_lengths=options.seq_lengths,
        precision=options.precision,
        backend=options.backend,
    )
    return outputs, h_n, c_n


@register_operator("aten.lstm_cell.default")
def lstm_cell_(
    input: Array,
    hx: Sequence[Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    options: Options,
) -> tuple[Array, Array]:
    """Run one step: :func:`jaxlstm.lstm_cell`. Returns (h, c)."""
    params = {"weight_ih": w_ih, "weight_hh": w_hh}
    if b_ih is not None:
        params |= {"bias_ih": b_ih, "bias_hh": b_hh}
    return lstm_cell(params, input, (hx[0], hx[1]), precision=options.precision)
