"""Regions of ``torch.no_grad`` and ``torch.autocast``: their graphs are inlined.

Nodes are inlined while a file is read, and not by a rule later, so that the names in the file are checked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jaxlstm.programs.graph import (
    Argument,
    Graph,
    Node,
    Site,
    TensorType,
    Value,
    functions_of,
    place_of,
    replaced,
    results_of,
    rewrite,
    uses_of,
    with_arguments,
    with_names,
    with_results,
)
from jaxlstm_converters.pt2.schema.fields import malformed, unsupported

INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast")

_FLOAT32 = np.dtype(np.float32)
# The operators that autocast runs in the lower precision on a CPU.
_LOWERED = frozenset(
    f"aten.{name}"
    for name in (
        *("linear", "matmul", "mm", "bmm", "addmm", "addbmm", "baddbmm", "conv_tbc", "_convolution"),
        *(f"{kind}{axes}d" for kind in ("conv", "conv_transpose") for axes in (1, 2, 3)),
        *("scaled_dot_product_attention", "einsum", "linalg_vecdot"),
    )
)
_RECURRENT = ("aten.lstm", "aten.gru", "aten.rnn_", "jaxlstm.packed_")


def inlined(node: Node) -> Iterator[Node]:
    """Yield the nodes of a region, which replace the node that calls it."""
    place = next((place for place, argument in enumerate(node.args) if isinstance(argument, Graph)), None)
    if place is None or len(node.args) != place + 1 + len(node.args[place].inputs):  # type: ignore[union-attr]
        raise malformed(node.op, "the region does not have a graph and its arguments")
    graph: Any = node.args[place]
    if node.op.endswith("set_grad_enabled"):
        if node.args[0] is not True:
            graph = rewrite(graph, lambda part, site: replace(part, with_gradient=False))
    elif node.args[0] == "cpu":
        rules = [partial(_with_casts, node.args[1])] if node.args[2] is True else []
        graph = rewrite(graph, *rules, lambda part, site: replace(part, casts_done=True))
    yield from _unique(node, graph, node.args[place + 1 :])


def _unique(node: Node, graph: Graph, operands: Iterable[Argument]) -> Iterator[Node]:
    """Yield the nodes of a region under names that are unique outside of it, and then its results."""
    given = dict(zip((declared.name for declared in graph.inputs), operands, strict=True))
    prefix = f"{node.name}__"

    def outside(value: Value) -> Argument:
        return given.get(value.name, Value(prefix + value.name))

    for part in graph.nodes:
        names = {name: prefix + name for name in results_of(part)}
        yield replace(with_results(with_arguments(part, outside), names), name=prefix + part.name)
    for output, result in zip(node.outputs, graph.outputs, strict=True):
        if isinstance(output, str):
            # The result shares memory with the value inside.
            kwargs = {"self": replaced(result, outside)}
            name = f"{node.name}__{output}_result"
            types = {output: node.types[output]} if output in node.types else {}
            yield Node(name, "aten.alias.default", (), kwargs, (output,), node.calls, types)


def _with_casts(dtype: Any, node: Node, site: Site) -> Iterator[Node]:
    """Put the casts of autocast to a dtype on a CPU in front of a node."""
    if node.casts_done:
        yield node
        return
    if node.op.startswith(_RECURRENT) or functions_of(node):
        raise unsupported(f"{node.op} in {place_of(node)}", "runs under autocast on a CPU")
    types = {name: site.types[name] for name in sorted({*uses_of(node)} & site.types.keys())}
    # A number that is a float32 tensor makes no tensor of another dtype float32.
    operands = [type_ for type_ in types.values() if type_.shape or type_.dtype != _FLOAT32]
    floats = {type_.dtype for type_ in operands if _is_float(type_.dtype)}
    target = _target(node, {type_.dtype for type_ in node.types.values()}, floats, dtype)
    casts: dict[str, str] = {}
    for name, type_ in types.items():
        if target is not None and _is_float(type_.dtype) and type_.dtype != target:
            casts[name] = f"{node.name}__{name}"
            yield _cast(casts[name], name, TensorType(target, type_.shape), node)
    yield with_names(node, casts)


def _target(node: Node, results: set[np.dtype], floats: set[np.dtype], dtype: np.dtype) -> np.dtype | None:
    """Return the dtype to which autocast casts the arguments of a node, or None."""
    if "dtype" in node.kwargs or node.op.startswith(("aten.to.", "aten.type_as.")):
        return None
    if results == {dtype} and _FLOAT32 in floats:
        if node.op.rpartition(".")[0] not in _LOWERED:
            raise unsupported(f"{node.op} in {place_of(node)}", f"gives {dtype} under autocast")
        return dtype
    return _FLOAT32 if results == {_FLOAT32} and floats == {dtype} else None


def _cast(name: str, value: str, type_: TensorType, node: Node) -> Node:
    kwargs: dict[str, Argument] = {"self": Value(value), "dtype": type_.dtype}
    cast = Node(name, "aten._to_copy.default", (), kwargs, (name,), node.calls, {name: type_})
    return replace(cast, with_gradient=node.with_gradient)


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
