"""Rewrite the graph of a program that needs no gradient, so that the native kernel runs its operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.kernels.cpu.library import library
from jaxlstm.kernels.cpu.stack import prepare
from jaxlstm.programs.graph import Argument, Graph, Node, Value, results_of, uses_of, values_in
from jaxlstm.programs.operators.inference import ACTIVATIONS, CELL, CONVOLUTION, prepare_convolution
from jaxlstm.programs.operators.recurrent import lstm_cell_
from jaxlstm.programs.operators.registry import CHANNELS_LAST, find_operator, is_in_place

_CONVOLUTIONS = {f"{CHANNELS_LAST}conv{n}d.{overload}" for n in (1, 2) for overload in ("default", "padding")}
_CELL = "aten.lstm_cell.default"
_NORM = CHANNELS_LAST + "batch_norm.default"
_NORM_ARGUMENTS = ("weight", "bias", "running_mean", "running_var", "eps")


def fused(graph: Graph) -> Graph:
    """Return the graph with the operators of :mod:`jaxlstm.programs.operators.inference`.

    A convolution with the channels last takes the norm by running statistics and the activation after it, if
    nothing else uses the result before it.
    """
    uses = Counter(name for node in graph.nodes for name in uses_of(node))
    uses.update(values_in((*graph.outputs, *graph.mutations.values())))
    cell = find_operator(_CELL)  # which the user may have registered
    nodes: dict[str, Node] = {}
    last: dict[str, Node] = {}  # a result that is used once -> the convolution
    for node in graph.nodes:
        if is_in_place(node.op):
            last.clear()  # it may change the input of an earlier convolution
        before = _source(node, last)
        if node.op in _CONVOLUTIONS:
            node = replace(node, op=CONVOLUTION)
        elif node.op == _CELL and cell is not None and cell.function is lstm_cell_:
            node = replace(node, op=CELL)
        elif before is not None and (added := _added(node, before)):
            node = replace(node, op=CONVOLUTION, kwargs={**before.kwargs, **added})
            del nodes[before.name]
        nodes[node.name] = node
        results = results_of(node)
        if node.op == CONVOLUTION and uses[results[0]] == 1:
            last[results[0]] = node
    return replace(graph, nodes=tuple(nodes.values()))


def _source(node: Node, last: dict[str, Node]) -> Node | None:
    """Return the convolution whose result is the first argument of a node."""
    value = node.kwargs.get("input", node.kwargs.get("self"))
    return last.get(value.name) if isinstance(value, Value) else None


def _added(node: Node, before: Node) -> dict[str, Any]:
    """Return the arguments with which a node becomes a part of the convolution before it."""
    if "activation" in before.kwargs:
        return {}
    if node.op in ACTIVATIONS or (node.op == "aten.hardtanh.default" and _bounds(node) == (0, 6)):
        return {"activation": node.op if node.op in ACTIVATIONS else "aten.relu6.default"}
    is_norm = node.op == _NORM and "norm" not in before.kwargs and not node.kwargs["training"]
    if is_norm and isinstance(node.kwargs["running_mean"], Value):
        return {"norm": tuple(node.kwargs[name] for name in _NORM_ARGUMENTS)}
    return {}


def _bounds(node: Node) -> tuple[Any, Any]:
    return node.kwargs.get("min_val", -1), node.kwargs.get("max_val", 1)


_CELL_WEIGHTS = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}


def prepared(graph: Graph, tensors: Mapping[str, Any]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return the graph with the weights of the native kernel as further parameters, and these by name.

    Args:
      graph: a graph of :func:`fused`.
      tensors: name in torch -> parameter, buffer or constant.
    """
    added: dict[str, np.ndarray] = {}
    found: dict[Any, Argument] = {}  # the steps of a loop share their weights
    names = {**graph.parameters, **graph.buffers, **graph.constants}
    if library().handle is None or any(is_in_place(node.op) for node in graph.nodes):
        return graph, added  # the values may change during a call

    def known(argument: Argument) -> Any:
        if isinstance(argument, tuple):
            return tuple(map(known, argument))
        return np.asarray(tensors[names[argument.name]]) if isinstance(argument, Value) else argument

    def with_weights(node: Node) -> Node:
        weights = node.kwargs["weight" if node.op == CONVOLUTION else "w_ih"]
        own = {name: value for name, value in node.kwargs.items() if name not in ("input", "hx")}
        if set(values_in(tuple(own.values()))) - set(names) or known(weights).dtype != np.float32:
            return node
        key = (node.op, *sorted(own.items(), key=lambda item: item[0]))
        if key not in found:
            found[key] = packed(node, {name: known(value) for name, value in own.items()})
        return replace(node, kwargs={**node.kwargs, "prepared": found[key]})

    def packed(node: Node, own: Mapping[str, Any]) -> Argument:
        if node.op == CONVOLUTION:
            settings = own["weight"], own.get("bias"), own.get("norm"), own.get("groups", 1)
            arrays: Any = prepare_convolution(*settings)
        else:
            params = {name: own.get(argument) for name, argument in _CELL_WEIGHTS.items()}
            arrays = (prepare({name: array for name, array in params.items() if array is not None}),)
        values = tuple(Value(f"<{node.name} {index}>") for index in range(len(arrays)))
        added.update((value.name, array) for value, array in zip(values, arrays, strict=True))
        return values if node.op == CONVOLUTION else values[0]

    nodes = tuple(with_weights(node) if node.op in (CONVOLUTION, CELL) else node for node in graph.nodes)
    parameters = {**graph.parameters, **{name: name for name in added}}
    return replace(graph, nodes=nodes, parameters=parameters), added
