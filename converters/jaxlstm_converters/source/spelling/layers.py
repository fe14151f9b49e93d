"""Operators of torch's modules -> the layers that compute them, with their arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from inspect import signature
from typing import Any

from flax import nnx

import jaxlstm.nnx
from jaxlstm.layer.params import param_shapes
from jaxlstm.programs.graph import Node, Value
from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS
from jaxlstm_converters.source.spelling.images import compact, conv_padding, transposed_pads
from jaxlstm_converters.source.spelling.reductions import attention
from jaxlstm_converters.source.spelling.typed_node import TypedNode

TORCH = "torch.nn.modules."
DICT = frozenset(dir(nnx.Dict))
"""The attributes of a dict of modules, whose parts have other names."""


@dataclass(frozen=True)
class LayerSpelling:
    """A layer that replaces the operator of a module.

    Attributes:
      constructor: for example ``"nnx.Conv"``.
      args: the positional arguments, Python literals under the names of the constructor's parameters.
      kwargs: the keyword arguments that differ from the defaults, ``rngs`` excluded.
      call: a template of the call, in which ``layer`` is the module and other names are the arguments of the
        operator. See :func:`spell_call`.
      tensors: name of a tensor in the module, for example ``"weight"`` -> value of the graph.
      path: path of the module, which may be a child of the module that calls the operator; "" for
        functional dropout.
      consumed: values that the layer makes itself, such as an initial state of zeros.
      results: the structure that the layer returns, with the numbers of the operator's results:
        ``(0, (1, 2))`` for an LSTM.
      rngs: True if the constructor takes ``rngs``.
      operands: further names in the template of the call, for a layer of several operators.
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
    operands: Mapping[str, Value] = field(default_factory=dict)


@cache
def defaults_of(constructor: str) -> dict[str, Any]:
    """Return the parameters of a layer's constructor with their defaults."""
    # jaxlstm.nnx.Conv passes all arguments on to Flax's.
    is_flax = constructor.startswith("nnx.") or constructor.endswith(".Conv")
    found = getattr(nnx if is_flax else jaxlstm.nnx, constructor.rpartition(".")[2])
    return {name: parameter.default for name, parameter in signature(found.__init__).parameters.items()}


_PLAIN = ("nnx.Module", "nnx.List", "nnx.Sequential")
_MADE = {"kernel", "embedding", "scale", "bias", "mean", "var", "kernel_shape", "conv_general_dilated"}


def attributes_of(base: str) -> set[str]:
    """Return the names of the attributes of a layer; none of a plain module."""
    return set() if base in _PLAIN else _MADE | {*defaults_of(base)}


def _layer(
    constructor: str,
    operation: TypedNode,
    args: dict[str, Any],
    call: str = "layer(input)",
    tensors: Mapping[str, Any] | None = None,
    **settings: Any,
) -> LayerSpelling:
    """Return a layer, without the settings that it has by default or does not have at all."""
    defaults = defaults_of(constructor)
    values = {name: operation.arguments.get(name) for name in _TENSORS} if tensors is None else tensors
    return LayerSpelling(
        constructor,
        args,
        {name: value for name, value in settings.items() if defaults.get(name, value) != value},
        call,
        {name: value.name for name, value in values.items() if isinstance(value, Value)},
        rngs="rngs" in defaults,
    )


_TENSORS = ("weight", "bias", "running_mean", "running_var")


def _sizes(operation: TypedNode, name: str = "weight") -> tuple[int, ...]:
    """Return the shape of a weight; () without a weight or with an unknown shape."""
    type_ = operation.type(name)
    sizes: Any = () if type_ is None else type_.shape
    return sizes if all(isinstance(size, int) for size in sizes) else ()


def _linear(operation: TypedNode) -> LayerSpelling | None:
    shape = _sizes(operation)
    if len(shape) != 2:
        return None
    sizes = {"in_features": shape[1], "out_features": shape[0]}
    return _layer("nnx.Linear", operation, sizes, use_bias=operation["bias"] is not None)


def _conv(operation: TypedNode, transposed: bool = False) -> LayerSpelling | None:
    shape, groups = _sizes(operation), operation["groups"]
    if not shape or not operation.channels_last or (transposed and groups != 1):
        return None
    outputs, inputs, *kernel = (shape[1], shape[0], *shape[2:]) if transposed else shape

    def of_axes(name: str) -> Any:
        values = repeated(operation[name], len(kernel))
        return compact(values) if not transposed else values if {*values} != {1} else None

    return _layer(
        "nnx.ConvTranspose" if transposed else "jaxlstm.nnx.Conv" if groups > 1 else "nnx.Conv",
        operation,
        {"in_features": inputs * groups, "out_features": outputs, "kernel_size": tuple(kernel)},
        strides=of_axes("stride"),
        padding=(transposed_pads if transposed else conv_padding)(operation, kernel),
        kernel_dilation=of_axes("dilation"),
        feature_group_count=groups,
        use_bias=operation["bias"] is not None,
        transpose_kernel=True,
    )


def _embed(operation: TypedNode) -> LayerSpelling | None:
    """Return an embedding, with the index whose row has no gradient if there is one."""
    shape = _sizes(operation)
    if not shape or shape[0] == 1 or operation["scale_grad_by_freq"]:
        return None
    sizes, padding = {"num_embeddings": shape[0], "features": shape[1]}, operation["padding_idx"]
    constructor = "nnx.Embed" if padding < 0 else "jaxlstm.nnx.Embed"
    return _layer(constructor, operation, sizes, "layer(indices)", padding_idx=padding)


def _norm(
    constructor: str, operation: TypedNode, features: Any, call: str = "layer(input)", **settings: Any
) -> LayerSpelling | None:
    """Return a norm with the settings that all norms share. Flax's fast variance loses precision."""
    if not isinstance(features, int) or operation["eps"] is None:
        return None
    return _layer(
        constructor,
        operation,
        {"num_features": features},
        call,
        **settings,
        epsilon=operation["eps"],
        use_scale=operation["weight"] is not None,
        use_bias=operation.arguments.get("bias") is not None,
        use_fast_variance=False,
    )


def _channels(operation: TypedNode) -> Any:
    """Return the number of channels of the input of a norm."""
    image = operation.type("input")
    if image is None or len(image.shape) < 2:
        return None
    return image.shape[-1 if operation.channels_last else 1]


def _batch_norm(operation: TypedNode) -> LayerSpelling | None:
    """Return a norm by running averages, as soon as ``model.eval()`` was called."""
    if operation["running_mean"] is None or operation["training"]:
        return None
    axis = 1 if not operation.channels_last and operation.ndim("input") > 2 else -1
    momentum = round(1 - operation["momentum"], 12)
    return _norm("nnx.BatchNorm", operation, _channels(operation), axis=axis, momentum=momentum)


def _layer_norm(constructor: str, operation: TypedNode) -> LayerSpelling | None:
    shape = operation["normalized_shape"]
    return _norm(constructor, operation, shape[0] if len(shape) == 1 else None)


def _group_norm(operation: TypedNode) -> LayerSpelling | None:
    is_last = operation.channels_last or operation.ndim("input") == 2
    call = "layer(input)" if is_last else "jnp.moveaxis(layer(jnp.moveaxis(input, 1, -1)), -1, 1)"
    groups = operation["num_groups"]
    return _norm("nnx.GroupNorm", operation, _channels(operation), call, num_groups=groups)


def _instance_norm(operation: TypedNode) -> LayerSpelling | None:
    if not operation["use_input_stats"] or operation["running_mean"] is not None:
        return None
    axis = -1 if operation.channels_last else 1
    return _norm("nnx.InstanceNorm", operation, _channels(operation), feature_axes=axis)


def drop_rate(node: Node) -> Any:
    """Return the rate at which an operator drops elements in training, 0 or None for none."""
    if "dropout" in node.op:
        return node.kwargs.get("p")
    between = node.kwargs.get("num_layers") != 1 and node.kwargs.get("dropout")
    return node.kwargs.get("dropout_p") or between


def changes_in_training(node: Node) -> bool:
    """Return True for a layer with a state that changes in training, which Flax refuses in a function."""
    is_layer = bool(node.calls) and node.calls[-1].class_name.startswith(TORCH)
    return bool(drop_rate(node)) or (is_layer and node.op.startswith("aten.batch_norm."))


def _dropout(operation: TypedNode) -> LayerSpelling | None:
    """Return dropout of elements, or of whole channels."""
    last, ndim, is_whole = operation.channels_last, operation.ndim("input"), "feature" in operation.name
    channels = tuple(range(1, ndim - 1) if last else range(2, ndim)) if is_whole else ()
    if not operation["p"] or (is_whole and not ndim):
        return None
    return _layer("nnx.Dropout", operation, {"rate": operation["p"]}, broadcast_dims=channels)


def _attention(operation: TypedNode) -> LayerSpelling | None:
    """Return the dropout of the weights of attention; without it, attention is not a layer."""
    weights, _, value = (attention(operation) or "").rpartition(" @ ")
    rate = operation.node.kwargs.get("dropout_p")
    if not rate or not weights:
        return None
    return _layer("nnx.Dropout", operation, {"rate": rate}, f"layer({weights}) @ {value}")


def _recurrent(op: str, operation: TypedNode) -> LayerSpelling | None:
    """Return a layer over sequences; ``hx`` is a pair for an LSTM, and in packed layers always a tuple."""
    is_lstm, is_packed = op == "aten.lstm.input", "lengths" in operation.arguments
    params = operation["params"]
    names = ("has_biases", "num_layers", "bidirectional", "batch_first")
    shapes: Any = [type_.shape for type_ in operation.tensors("params")]
    config = SEQUENCE_LAYERS[op](shapes, **{name: operation[name] for name in names})
    consumed = operation.zeros("hx")
    state = "(hx[0], hx[1])" if is_lstm else "hx[0]" if is_packed else "hx"
    call = "layer(input" + ("" if consumed else f", {state}")
    layer = _layer(
        f"jaxlstm.nnx.{'LSTM' if is_lstm else 'GRU' if 'gru' in op else 'RNN'}",
        operation,
        {"input_size": config.input_size, "hidden_size": config.hidden_size},
        call + (", seq_lengths=lengths)" if is_packed else ")"),
        dict(zip(param_shapes(config), params, strict=True)),
        num_layers=config.num_layers,
        nonlinearity=getattr(config, "nonlinearity", None),
        bias=config.bias,
        batch_first=config.batch_first,
        dropout=float(operation["dropout"]),
        bidirectional=config.bidirectional,
        proj_size=0 if config.h_size == config.hidden_size else config.h_size,
    )
    return replace(layer, consumed=consumed, results=(0, (1, 2)) if is_lstm else (0, 1))


def _cell(kind: str, operation: TypedNode) -> LayerSpelling | None:
    inputs, hidden = _sizes(operation, "w_ih"), _sizes(operation, "w_hh")
    if not inputs or not hidden:
        return None
    is_lstm, consumed = kind == "LSTMCell", operation.zeros("hx")
    names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
    layer = _layer(
        f"jaxlstm.nnx.{kind}",
        operation,
        {"input_size": inputs[1], "hidden_size": hidden[1]},
        "layer(input)" if consumed else f"layer(input, {'(hx[0], hx[1])' if is_lstm else 'hx'})",
        {name: operation[argument] for name, argument in names.items()},
        bias=operation["b_ih"] is not None,
    )
    return replace(layer, consumed=consumed, results=(0, 1) if is_lstm else None)


RULES: dict[str, Callable[[TypedNode], LayerSpelling | None]] = {
    "aten.linear.default": _linear,
    **{f"aten.conv{n}d.{kind}": _conv for n in (1, 2, 3) for kind in ("default", "padding")},
    "aten.conv_transpose1d.default": partial(_conv, transposed=True),
    **{f"aten.conv_transpose{n}d.input": partial(_conv, transposed=True) for n in (2, 3)},
    "aten.embedding.default": _embed,
    "aten.batch_norm.default": _batch_norm,
    "aten.layer_norm.default": partial(_layer_norm, "nnx.LayerNorm"),
    "aten.rms_norm.default": partial(_layer_norm, "nnx.RMSNorm"),
    "aten.group_norm.default": _group_norm,
    "aten.instance_norm.default": _instance_norm,
    "aten.prelu.default": lambda operation: (
        _layer("nnx.PReLU", operation, {}, "layer(self)") if _sizes(operation) == (1,) else None
    ),
    **dict.fromkeys(("aten.dropout.default", "aten.feature_dropout.default"), _dropout),
    "aten.scaled_dot_product_attention.default": _attention,
    **{op: partial(_recurrent, op) for op in SEQUENCE_LAYERS},
    **{
        f"jaxlstm.packed_{op.removeprefix('aten.').removesuffix('.input')}.default": partial(_recurrent, op)
        for op in SEQUENCE_LAYERS
    },
    "aten.lstm_cell.default": partial(_cell, "LSTMCell"),
    "aten.gru_cell.default": partial(_cell, "GRUCell"),
}
