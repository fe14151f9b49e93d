"""Operators of torch's modules -> the layers that compute them, with their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from jaxlstm.layer.params import param_shapes
from jaxlstm.programs.graph import Node, Value
from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS
from jaxlstm_converters.source.spelling.images import compact, conv_padding, transposed_pads
from jaxlstm_converters.source.spelling.typed_node import TypedNode

TORCH = "torch.nn.modules."


@dataclass(frozen=True)
class LayerSpelling:
    """A layer that replaces the operator of a module.

    Attributes:
      constructor: for example ``"nnx.Conv"``.
      args: the positional arguments, Python literals under the names of the constructor's parameters.
      kwargs: the keyword arguments that differ from Flax's defaults, ``rngs`` excluded.
      call: a template of the call, in which ``layer`` is the module and other names are the arguments of the
        operator. See :func:`spell_call`.
      tensors: name of a tensor in the module, for example ``"weight"`` -> value of the graph.
      path: path of the module, which may be a child of the module that calls the operator.
      consumed: values that the layer makes itself, such as an initial state of zeros.
      results: the structure that the layer returns, with the numbers of the operator's results:
        ``(0, (1, 2))`` for an LSTM.
      rngs: True if the constructor takes ``rngs``.
    """

    constructor: str
    args: Mapping[str, Any]
    kwargs: Mapping[str, Any]
    call: str
    tensors: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    consumed: tuple[str, ...] = ()
    results: Any = None
    rngs: bool = True


def _values(operation: TypedNode, **arguments: str) -> dict[str, str]:
    """Return name in torch -> value, for the arguments that are tensors."""
    found = {name: operation[argument] for name, argument in arguments.items()}
    return {name: value.name for name, value in found.items() if isinstance(value, Value)}


def _sizes(operation: TypedNode, name: str) -> tuple[int, ...]:
    """Return the shape of a weight; () without a weight or with an unknown shape."""
    type_ = operation.type(name)
    sizes = () if type_ is None else type_.shape
    integers = tuple(size for size in sizes if isinstance(size, int))
    return integers if len(integers) == len(sizes) else ()


def _without(default: Any, **settings: Any) -> dict[str, Any]:
    """Return the settings that are not the default."""
    return {name: value for name, value in settings.items() if value != default}


def _linear(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    shape = _sizes(operation, "weight")
    if len(shape) != 2:
        return None
    outputs, inputs = shape
    return LayerSpelling(
        "nnx.Linear",
        {"in_features": inputs, "out_features": outputs},
        _without(True, use_bias=operation["bias"] is not None),
        "layer(input)",
        _values(operation, weight="weight", bias="bias"),
    )


def _conv(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    shape = _sizes(operation, "weight")
    if not shape or not operation.channels_last:
        return None
    outputs, inputs, *kernel = shape
    padding = conv_padding(operation, kernel)
    return LayerSpelling(
        "jaxlstm.nnx.Conv" if operation["groups"] > 1 else "nnx.Conv",
        {"in_features": inputs * operation["groups"], "out_features": outputs, "kernel_size": tuple(kernel)},
        {
            **_without(1, strides=compact(repeated(operation["stride"], len(kernel)))),
            **_without("SAME", padding=padding),
            **_without(1, kernel_dilation=compact(repeated(operation["dilation"], len(kernel)))),
            **_without(1, feature_group_count=operation["groups"]),
            **_without(True, use_bias=operation["bias"] is not None),
        },
        "layer(input)",
        _values(operation, weight="weight", bias="bias"),
    )


def _conv_transpose(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    shape = _sizes(operation, "weight")
    if not shape or operation["groups"] != 1 or not operation.channels_last:
        return None
    inputs, outputs, *kernel = shape
    n = len(kernel)
    dilations, strides = repeated(operation["dilation"], n), repeated(operation["stride"], n)
    return LayerSpelling(
        "nnx.ConvTranspose",
        {"in_features": inputs, "out_features": outputs, "kernel_size": tuple(kernel)},
        {
            **_without((1,) * n, strides=strides),
            "padding": transposed_pads(operation, kernel),
            **_without((1,) * n, kernel_dilation=dilations),
            **_without(True, use_bias=operation["bias"] is not None),
            "transpose_kernel": True,
        },
        "layer(input)",
        _values(operation, weight="weight", bias="bias"),
    )


def _embed(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    """Return an embedding; the row of ``padding_idx`` has no gradient in torch."""
    shape = _sizes(operation, "weight")
    if not shape or shape[0] == 1 or operation["scale_grad_by_freq"]:
        return None
    call = "layer(indices)"
    if operation["padding_idx"] >= 0:
        frozen = "lax.stop_gradient(layer.embedding[padding_idx])"
        call = f"jnp.where((indices == padding_idx)[..., None], {frozen}, {call})"
    sizes = {"num_embeddings": shape[0], "features": shape[1]}
    return LayerSpelling("nnx.Embed", sizes, {}, call, _values(operation, weight="weight"))


def _norm_kwargs(operation: TypedNode, default: float, epsilon: float | None = None) -> dict[str, Any]:
    """Return the settings that all norms share. Flax's fast variance loses precision."""
    has_bias = "bias" not in operation.arguments or operation["bias"] is not None
    return {
        **_without(default, epsilon=operation["eps"] if epsilon is None else epsilon),
        **_without(True, use_scale=operation["weight"] is not None),
        **_without(True, use_bias=has_bias),
        "use_fast_variance": False,
    }


def _channels(operation: TypedNode) -> int | None:
    """Return the number of channels of the input of a norm."""
    image = operation.type("input")
    if image is None or len(image.shape) < 2:
        return None
    size = image.shape[-1 if operation.channels_last else 1]
    return size if isinstance(size, int) else None


def _batch_norm(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    """Return a norm by running averages, as soon as ``model.eval()`` was called."""
    features = _channels(operation)
    if features is None or operation["running_mean"] is None or operation["training"]:
        return None
    channels_first = not operation.channels_last and operation.ndim("input") > 2
    names = ("weight", "bias", "running_mean", "running_var")
    return LayerSpelling(
        "nnx.BatchNorm",
        {"num_features": features},
        {
            **_without(-1, axis=1 if channels_first else -1),
            **_without(0.99, momentum=round(1 - operation["momentum"], 12)),
            **_norm_kwargs(operation, 1e-5),
        },
        "layer(input)",
        _values(operation, **{name: name for name in names}),
    )


def _layer_norm(constructor: str, operation: TypedNode, producers: Any) -> LayerSpelling | None:
    shape = operation["normalized_shape"]
    if len(shape) != 1 or not isinstance(shape[0], int):
        return None
    is_rms = constructor == "nnx.RMSNorm"
    epsilon = float(np.finfo(np.float32).eps) if operation["eps"] is None else None
    names = {"weight": "weight"} if is_rms else {"weight": "weight", "bias": "bias"}
    return LayerSpelling(
        constructor,
        {"num_features": shape[0]},
        _norm_kwargs(operation, 1e-6, epsilon),
        "layer(input)",
        _values(operation, **names),
    )


def _group_norm(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    features = _channels(operation)
    if features is None:
        return None
    is_last = operation.channels_last or operation.ndim("input") == 2
    return LayerSpelling(
        "nnx.GroupNorm",
        {"num_features": features, "num_groups": operation["num_groups"]},
        _norm_kwargs(operation, 1e-6),
        "layer(input)" if is_last else "jnp.moveaxis(layer(jnp.moveaxis(input, 1, -1)), -1, 1)",
        _values(operation, weight="weight", bias="bias"),
    )


def _instance_norm(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    features = _channels(operation)
    if features is None or not operation["use_input_stats"] or operation["running_mean"] is not None:
        return None
    return LayerSpelling(
        "nnx.InstanceNorm",
        {"num_features": features},
        {**_norm_kwargs(operation, 1e-6), **({} if operation.channels_last else {"feature_axes": 1})},
        "layer(input)",
        _values(operation, weight="weight", bias="bias"),
    )


def _prelu(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    if _sizes(operation, "weight") != (1,):
        return None
    return LayerSpelling("nnx.PReLU", {}, {}, "layer(self)", _values(operation, weight="weight"), rngs=False)


def _dropout(operation: TypedNode, producers: Any) -> LayerSpelling | None:
    calls = operation.node.calls
    if not calls or calls[-1].class_name != f"{TORCH}dropout.Dropout" or not operation["p"]:
        return None
    return LayerSpelling("nnx.Dropout", {"rate": operation["p"]}, {}, "layer(input)")


_ZEROS = ("aten.zeros.default", "aten.new_zeros.default", "aten.zeros_like.default")


def _zeros(state: tuple[Any, ...], producers: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the names of an initial state of zeros; none for any other state."""
    names = tuple(value.name for value in state if isinstance(value, Value))
    return names if all(name in producers and producers[name].op in _ZEROS for name in names) else ()


def _recurrent(op: str, operation: TypedNode, producers: Mapping[str, Node]) -> LayerSpelling | None:
    """Return a layer over sequences; ``hx`` is a pair for an LSTM, and in packed layers always a tuple."""
    is_lstm, is_packed = op == "aten.lstm.input", "lengths" in operation.arguments
    params, hx = operation["params"], operation["hx"]
    names = ("has_biases", "num_layers", "bidirectional", "batch_first")
    shapes: Any = [type_.shape for type_ in operation.tensors("params")]
    config = SEQUENCE_LAYERS[op](shapes, **{name: operation[name] for name in names})
    settings = {
        **_without(1, num_layers=config.num_layers),
        **_without("tanh", nonlinearity=getattr(config, "nonlinearity", "tanh")),
        **_without(True, bias=config.bias),
        **_without(False, batch_first=config.batch_first),
        **_without(0.0, dropout=float(operation["dropout"])),
        **_without(False, bidirectional=config.bidirectional),
    }
    if config.h_size != config.hidden_size:
        settings["proj_size"] = config.h_size
    consumed = _zeros(hx if isinstance(hx, tuple) else (hx,), producers)
    state = "(hx[0], hx[1])" if is_lstm else "hx[0]" if is_packed else "hx"
    call = "layer(input" + ("" if consumed else f", {state}")
    return LayerSpelling(
        f"jaxlstm.nnx.{'LSTM' if is_lstm else 'GRU' if 'gru' in op else 'RNN'}",
        {"input_size": config.input_size, "hidden_size": config.hidden_size},
        settings,
        call + (", seq_lengths=lengths)" if is_packed else ")"),
        {name: value.name for name, value in zip(param_shapes(config), params, strict=True)},
        consumed=consumed,
        results=(0, (1, 2)) if is_lstm else (0, 1),
    )


def _lstm_cell(operation: TypedNode, producers: Mapping[str, Node]) -> LayerSpelling | None:
    shape = _sizes(operation, "w_ih")
    if not shape:
        return None
    rows, inputs = shape
    consumed = _zeros(operation["hx"], producers)
    names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
    return LayerSpelling(
        "jaxlstm.nnx.LSTMCell",
        {"input_size": inputs, "hidden_size": rows // 4},
        _without(True, bias=operation["b_ih"] is not None),
        "layer(input)" if consumed else "layer(input, (hx[0], hx[1]))",
        _values(operation, **names),
        consumed=consumed,
        results=(0, 1),
    )


RULES: dict[str, Callable[[TypedNode, Any], LayerSpelling | None]] = {
    "aten.linear.default": _linear,
    **{f"aten.conv{n}d.{kind}": _conv for n in (1, 2, 3) for kind in ("default", "padding")},
    "aten.conv_transpose1d.default": _conv_transpose,
    **{f"aten.conv_transpose{n}d.input": _conv_transpose for n in (2, 3)},
    "aten.embedding.default": _embed,
    "aten.batch_norm.default": _batch_norm,
    "aten.layer_norm.default": partial(_layer_norm, "nnx.LayerNorm"),
    "aten.rms_norm.default": partial(_layer_norm, "nnx.RMSNorm"),
    "aten.group_norm.default": _group_norm,
    "aten.instance_norm.default": _instance_norm,
    "aten.prelu.default": _prelu,
    "aten.dropout.default": _dropout,
    **{op: partial(_recurrent, op) for op in SEQUENCE_LAYERS},
    **{
        f"jaxlstm.packed_{op.removeprefix('aten.').removesuffix('.input')}.default": partial(_recurrent, op)
        for op in SEQUENCE_LAYERS
    },
    "aten.lstm_cell.default": _lstm_cell,
}
