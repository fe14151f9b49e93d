"""Rewrite the graph of a program that needs no gradient, so that the native kernel runs its operators."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.kernels.cpu.library import library
from jaxlstm.kernels.cpu.stack import prepare
from jaxlstm.layer.params import direction_params, param_shapes
from jaxlstm.programs.graph import Argument, Graph, Node, Site, Value, results_of, rewrite, values_in
from jaxlstm.programs.operators.inference import (
    ACTIVATIONS,
    CONVOLUTION,
    LINEAR,
    MEAN,
    NORMS,
    RECURRENT,
    prepare_convolution,
)
from jaxlstm.programs.operators.linear_algebra import linear
from jaxlstm.programs.operators.normalization import group_norm, instance_norm, layer_norm
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS, run_cell, run_layer
from jaxlstm.programs.operators.registry import CHANNELS_LAST, find_operator

_CONVOLUTIONS = {f"{CHANNELS_LAST}conv{n}d.{overload}" for n in (1, 2) for overload in ("default", "padding")}
_LAYERS = {
    "aten.linear.default": LINEAR,
    **{of_torch: op for op, (of_torch, _) in RECURRENT.items()},
    **{replaced: op for op, replaced in NORMS.items()},
}
_FUNCTIONS = (linear, run_cell, run_layer, layer_norm, group_norm, instance_norm)
"""The functions of these operators, and not others, which the user may have registered."""
_COMPUTED = ("input", "hx", "gate", "residual")
"""The arguments that the program computes; the others are weights and settings."""
_LARGEST_LINEAR = 1 << 22
"""The number of elements up to which a linear layer has a second, packed weight."""
_PRODUCT, _SUM = "aten.mul.Tensor", "aten.add.Tensor"
_NORM, _POOL = CHANNELS_LAST + "batch_norm.default", CHANNELS_LAST + "adaptive_avg_pool2d.default"
_NORM_ARGUMENTS = ("weight", "bias", "running_mean", "running_var", "eps")


def fuse(graph: Graph) -> Graph:
    """Return the graph with the operators of :mod:`jaxlstm.programs.operators.inference`.

    A convolution with the channels last takes the product before it, and the norm by running statistics, the
    sum and the activation after it, if nothing else uses the results between.
    """
    return rewrite(graph, _native, _joined)


def _native(node: Node, site: Site) -> Node | None:
    """Give a node the native operator."""
    if node.op in _CONVOLUTIONS:
        return replace(node, op=CONVOLUTION)
    if mean := _mean(node, site):
        return replace(node, op=MEAN, kwargs=mean)
    layer = _native_layer(node)
    return replace(node, op=layer) if layer else None


def _joined(node: Node, site: Site) -> Node | None:
    """Join a node with the convolution or product before it, if nothing else uses that."""
    for value in values_in(tuple(node.kwargs.values())):
        before = site.maker(Value(value))
        if before is None or before.op not in (CONVOLUTION, _PRODUCT) or len(site.users[value]) > 1:
            continue
        if joined := _join(before, node, Value(value)):
            site.remove(before)
            return joined
    return None


def _join(before: Node, node: Node, value: Value) -> Node | None:
    """Return the convolution of a node and the node before it, which gives its ``value``, or None."""
    if before.op == _PRODUCT:
        factors = before.kwargs["self"], before.kwargs["other"]
        takes = node.op == CONVOLUTION and node.kwargs["input"] == value and node.kwargs.get("groups", 1) == 1
        if not takes or not all(isinstance(factor, Value) for factor in factors):
            return None
        return replace(node, kwargs={**node.kwargs, "input": factors[0], "gate": factors[1]})
    added = _added(node, before, value)
    return replace(node, op=CONVOLUTION, kwargs={**before.kwargs, **added}) if added else None


def _added(node: Node, before: Node, value: Value) -> dict[str, Any]:
    """Return the arguments with which a node becomes a part of the convolution before it."""
    if "activation" in before.kwargs:
        return {}
    terms = [node.kwargs.get("self"), node.kwargs.get("other")]
    if node.op == _SUM and "residual" not in before.kwargs and node.kwargs.get("alpha", 1) == 1:
        other = terms[terms[0] == value]
        return {"residual": other} if isinstance(other, Value) and other != value else {}
    if value not in (terms[0], node.kwargs.get("input")):
        return {}
    if node.op in ACTIVATIONS:
        return {"activation": node.op}
    bounds = node.kwargs.get("min_val"), node.kwargs.get("max_val")
    if node.op == "aten.hardtanh.default" and bounds == (0, 6):
        return {"activation": "aten.relu6.default"}
    is_norm = node.op == _NORM and not {"norm", "residual"} & {*before.kwargs} and not node.kwargs["training"]
    if is_norm and isinstance(node.kwargs["running_mean"], Value):
        return {"norm": tuple(node.kwargs[name] for name in _NORM_ARGUMENTS)}
    return {}


def _mean(node: Node, site: Site) -> dict[str, Any] | None:
    """Return the arguments of MEAN for the mean over the height or width of a convolution's result."""
    value, axes = node.kwargs.get("self"), node.kwargs.get("dim")
    before = site.maker(value)
    if before is None or before.op != CONVOLUTION or len(before.types[results_of(before)[0]].shape) != 4:
        return None
    if node.op == _POOL and node.kwargs["output_size"] in (1, (1, 1)):
        return {"self": value, "dim": (1, 2), "keepdim": True}
    is_mean = node.op == "aten.mean.dim" and isinstance(axes, tuple) and {*axes} <= {1, 2}
    return node.kwargs if is_mean and "dtype" not in node.kwargs else None  # type: ignore[return-value]


def _native_layer(node: Node) -> str:
    """Return the operator for a layer, cell or norm, or "" for other nodes and operators of the user."""
    function = getattr(find_operator(node.op), "function", None)
    return _LAYERS.get(node.op, "") if getattr(function, "func", function) in _FUNCTIONS else ""


_CELL_WEIGHTS = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}


def prepare_weights(graph: Graph, tensors: Mapping[str, Any]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return the graph with the weights of the native kernel as further parameters, and these by name.

    Args:
      graph: a graph of :func:`fuse`.
      tensors: name in torch -> parameter, buffer or constant.
    """
    added: dict[str, np.ndarray] = {}
    found: dict[Any, Argument] = {}  # the steps of a loop share their weights
    names = {**graph.parameters, **graph.buffers, **graph.constants}
    if library().handle is None:
        return graph, added

    def known(argument: Argument) -> Any:
        if isinstance(argument, tuple):
            return tuple(map(known, argument))
        return np.asarray(tensors[names[argument.name]]) if isinstance(argument, Value) else argument

    def with_weights(node: Node, site: Site) -> Node | None:
        own = {name: value for name, value in node.kwargs.items() if name not in _COMPUTED}
        if node.op not in (CONVOLUTION, LINEAR, *RECURRENT) or {*values_in(tuple(own.values()))} - {*names}:
            return None
        key = (node.op, *sorted(own.items(), key=lambda item: item[0]))
        if key not in found:
            arrays = _packed(node.op, {name: known(value) for name, value in own.items()})
            values = tuple(Value(f"<{node.name} {index}>") for index in range(len(arrays)))
            added.update((value.name, array) for value, array in zip(values, arrays, strict=True))
            found[key] = values
        return replace(node, kwargs={**node.kwargs, "prepared": found[key]}) if found[key] else None

    graph = rewrite(graph, with_weights)
    return replace(graph, parameters={**graph.parameters, **dict(zip(added, added, strict=True))}), added


def _packed(op: str, own: Mapping[str, Any]) -> Sequence[np.ndarray]:
    """Return the packed weights of a node; none if the kernel does not take them."""
    if op == CONVOLUTION:
        settings = own["weight"], own.get("bias"), own.get("norm"), own.get("groups", 1)
        return prepare_convolution(*settings) if own["weight"].dtype == np.float32 else ()
    if op == LINEAR:
        weight = own["weight"]
        is_taken = weight.ndim == 2 and weight.dtype == np.float32 and 0 < weight.size <= _LARGEST_LINEAR
        return prepare_convolution(weight[..., None], own.get("bias"), None, 1) if is_taken else ()
    of_torch, cell = RECURRENT[op]
    if of_torch not in SEQUENCE_LAYERS:
        names = _CELL_WEIGHTS.items()
        layers = [[{name: own[given] for given, name in names if own.get(given) is not None}]]
    else:
        settings = {name: own[name] for name in ("has_biases", "num_layers", "bidirectional", "batch_first")}
        config = SEQUENCE_LAYERS[of_torch]([leaf.shape for leaf in own["params"]], **settings)
        params = dict(zip(param_shapes(config), own["params"], strict=True))
        layers = [
            [direction_params(params, config, layer, d) for d in range(config.num_directions)]
            for layer in range(config.num_layers)
        ]
    weights = [leaf for layer in layers for direction in layer for leaf in direction.items()]
    if any(leaf.dtype != np.float32 or name == "weight_hr" for name, leaf in weights):
        return ()
    return [np.stack([prepare(direction, cell) for direction in layer]) for layer in layers]
