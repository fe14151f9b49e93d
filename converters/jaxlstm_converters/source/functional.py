"""A graph without in-place operators: each write becomes new values under new names."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.acceptance import AcceptedGraph
from jaxlstm.programs.aliases import InPlaceWrite, View, graph_with_nodes, with_names
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Graph, Node, TensorType, Value, values_in
from jaxlstm.programs.operators.dtypes import held
from jaxlstm.programs.operators.registry import functional_name
from jaxlstm_converters.source.gradients import WITH_VALUES
from jaxlstm_converters.source.sizes import size_name
from jaxlstm_converters.source.spelling.typed_node import same_sizes

_TO_THE_END = 2**63 - 1
# The argument that equals the result, where its type does and the node takes or writes all of an axis.
_SOURCES = {"aten.slice.Tensor": "self", "aten.slice_scatter.default": "src", "aten.copy.default": "src"}
_SOURCES |= dict.fromkeys(("aten.type_as.default", "aten.to.dtype", "aten._to_copy.default"), "self")
_PREDICATES = {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not"}
# The inverse of these views gives the base its shape again.
_SHAPES = ("view", "unsqueeze", "squeeze", "_unsafe_view", "unflatten", "view_as")


def functional_graph(accepted: AcceptedGraph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph with functional operators instead of in-place ones."""
    if not accepted.writes:
        return accepted.graph
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for index, node in enumerate(accepted.graph.nodes):
        current = with_names(node, names)
        write = accepted.writes.get(index)
        if write is None:
            nodes.append(current)
        else:
            nodes += _written(current, write, names, types)
    graph = accepted.graph
    changed = {
        graph.buffers[write.owner]: Value(names[write.owner])
        for write in accepted.writes.values()
        if write.owner in graph.buffers and write.owner in names
    }
    graph = graph_with_nodes(graph, nodes, names)
    return replace(graph, mutations={**changed, **graph.mutations})


def without_copies(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return a graph without nodes whose results equal one of their arguments.

    An export has a slice of all elements before the index in ``x[:, t]``, and copies a row that it writes.
    """
    names: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = with_names(node, names)
        bounds = [node.kwargs.get(key) for key in ("start", "end", "step")]
        is_whole = "start" not in node.kwargs or bounds == [0, _TO_THE_END, None]
        source = node.kwargs.get(_SOURCES.get(node.op, ""))
        if isinstance(source, Value) and is_whole and node.with_gradient:
            given, made = types[source.name], types[node.name]
            if held(given.dtype) == held(made.dtype) and same_sizes(given, made):
                names[node.name] = source.name
                continue
        nodes.append(node)
    return graph_with_nodes(graph, nodes, names)


def _written(
    node: Node, write: InPlaceWrite, names: dict[str, str], types: Mapping[str, TensorType]
) -> list[Node]:
    """Return the nodes of a write, and give the values that it changes their new names."""
    result = next((output for output in node.outputs if isinstance(output, str)), node.name)
    target = names.get(write.target, write.target)
    nodes = _keeping_gradient(_in_place_of(node, result, types[write.target], types), target)
    names[write.target] = result
    for view in write.back:
        name = f"{result}_{view.base}"
        base = names.get(view.base, view.base)
        back = _back(view, Value(base), Value(names[view.name]), name, types[view.base], node)
        nodes += _keeping_gradient([back], base)
        names[view.base] = name
    for view in write.again:
        if view.name not in (write.target, *(written.name for written in write.back)):
            again = with_names(view.node, names)
            name = f"{result}_{view.name}"
            outputs = tuple(name if output == view.name else None for output in view.node.outputs)
            nodes.append(replace(again, name=name, outputs=outputs, types={name: types[view.name]}))
            names[view.name] = name
    return nodes


def _in_place_of(node: Node, result: str, target: TensorType, types: Mapping[str, TensorType]) -> list[Node]:
    """Return the functional form of a node, whose result keeps the dtype of its target."""
    functional = replace(node, op=functional_name(node.op), outputs=(result,), types={result: target})
    tensors = [types[name] for name in values_in(tuple(node.kwargs.values())) if name in types]
    dtype = functools.reduce(jnp.promote_types, (type_.dtype for type_ in tensors), target.dtype)
    if functional.op.split(".")[1] in _PREDICATES:
        dtype = np.dtype(bool)
    if dtype == held(target.dtype):
        return [functional]
    wide = f"{result}_wide"
    kwargs = {"self": Value(wide), "dtype": target.dtype}
    return [
        replace(functional, name=wide, outputs=(wide,), types={wide: replace(target, dtype=dtype)}),
        replace(functional, op="aten.to.dtype", kwargs=kwargs),
    ]


def _keeping_gradient(nodes: list[Node], old: str) -> list[Node]:
    """Return the nodes of a write; inside of no_grad, torch replaces the values and keeps the gradient."""
    *before, last = nodes
    if last.with_gradient:
        return nodes
    (result,), values = last.outputs, f"{last.outputs[0]}_values"
    made = replace(last, name=values, outputs=(values,), types={values: last.types[str(result)]})
    kept = replace(
        last, with_gradient=True, op=WITH_VALUES, kwargs={"base": Value(old), "values": Value(values)}
    )
    return [*before, made, kept]


def _back(view: View, base: Value, written: Value, name: str, type_: TensorType, node: Node) -> Node:
    """Return the node that writes a view into its base."""
    op, kwargs = view.node.op, dict(view.node.kwargs)
    if (part := _part_of(view)) is not None:
        kind = "select" if "index" in part else "slice"
        op, kwargs = f"aten.{kind}_scatter.default", {**part, "self": base, "src": written}
    elif op.split(".")[1] in _SHAPES:
        op, kwargs = "aten.reshape.default", {"self": written, "shape": sizes_of(type_)}
    elif op == "aten.transpose.int":
        kwargs["self"] = written
    elif op == "aten.detach.default":
        op, kwargs = WITH_VALUES, {"base": base, "values": written}
    elif view.operator.name == functional_name(op) != op:
        op, kwargs = "aten.alias.default", {"self": written}
    else:
        raise ProgramError(
            "unsupported-alias",
            f"node {node.name} ({node.op}) writes in place to a view made by {op}, which has no Flax source. "
            "Replace the in-place operator by its functional form, and export again",
        )
    return replace(node, name=name, op=op, kwargs=kwargs, outputs=(name,), types={name: type_})


def _part_of(view: View) -> dict[str, Argument] | None:
    """Return the place or the range of an axis that a view shows; None for other views."""
    node, kind = view.node, view.node.op.split(".")[1]
    kwargs: dict[str, Any] = {"dim": 0, **node.kwargs}
    dim = kwargs["dim"]
    match kind:
        case "select" | "slice":
            return kwargs
        case "unbind":
            return {"dim": dim, "index": view.index}
        case "narrow":
            start, length = kwargs["start"], kwargs["length"]
        case "split" | "split_with_sizes" | "chunk":
            results: Any = node.outputs[0]
            sizes: list[Any] = [name and node.types[name].shape[dim] for name in results[: view.index + 1]]
            *before, length = sizes
            start = sum(before) if None not in before else None
        case _:
            return None
    if not isinstance(start, int) or not isinstance(length, int) or start < 0:
        return None
    return {"dim": dim, "start": start, "end": start + length}


def sizes_of(type_: TensorType) -> tuple[Argument, ...]:
    """Return the shape of a tensor as an argument, in which free sizes are values."""
    texts = type_.expressions or ("",) * len(type_.shape)
    sizes = zip(type_.shape, texts, strict=True)
    return tuple(size if isinstance(size, int) else Value(size_name(size or text)) for size, text in sizes)
