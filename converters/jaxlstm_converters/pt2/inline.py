"""Regions of ``torch.no_grad`` and ``torch.autocast``: their graphs are inlined."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Argument, Graph, Node, TensorType, Value, place_of, uses_of
from jaxlstm_converters.pt2.fields import malformed, unsupported

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
    nodes: Iterable[Node] = graph.nodes
    if node.op.endswith("set_grad_enabled"):
        if node.args[0] is not True:
            nodes = (replace(part, with_gradient=False) for part in nodes)
    elif node.args[0] == "cpu":
        nodes = _with_casts(graph, node.args[1]) if node.args[2] is True else nodes
        nodes = (replace(part, casts_done=True) for part in nodes)
    yield from _renamed(node, graph, nodes, node.args[place + 1 :])


def _renamed(node: Node, graph: Graph, nodes: Iterable[Node], operands: Iterable[Argument]) -> Iterator[Node]:
    """Yield nodes of a region under names that are unique outside of it, and then its results."""
    names: dict[str, Argument] = dict(
        zip((declared.name for declared in graph.inputs), operands, strict=True)
    )

    def new_name(name: str) -> str:
        names[name] = Value(f"{node.name}__{name}")
        return f"{node.name}__{name}"

    for part in nodes:
        kwargs = {name: _substituted(argument, names) for name, argument in part.kwargs.items()}
        args = tuple(_substituted(argument, names) for argument in part.args)
        outputs = tuple(
            tuple(map(new_name, output)) if isinstance(output, tuple) else output and new_name(output)
            for output in part.outputs
        )
        types = {f"{node.name}__{name}": type_ for name, type_ in part.types.items()}
        changes: Any = {"args": args, "kwargs": kwargs, "outputs": outputs, "types": types}
        yield replace(part, name=f"{node.name}__{part.name}", **changes)
    for output, result in zip(node.outputs, graph.outputs, strict=True):
        if isinstance(output, str):
            # The result shares memory with the value inside.
            kwargs = {"self": _substituted(result, names)}
            name = f"{node.name}__{output}_result"
            types = {output: node.types[output]} if output in node.types else {}
            yield Node(name, "aten.alias.default", (), kwargs, (output,), node.calls, types)


def _substituted(argument: Argument, names: Mapping[str, Argument]) -> Argument:
    if isinstance(argument, Value):
        return names[argument.name]
    if isinstance(argument, tuple):
        return tuple(_substituted(item, names) for item in argument)
    return argument


def _with_casts(graph: Graph, dtype: Any) -> Iterator[Node]:
    """Yield the nodes of a graph with the casts of autocast to a dtype on a CPU."""
    types = {declared.name: declared.type for declared in graph.inputs if declared.type}
    for node in graph.nodes:
        if node.casts_done:
            types |= node.types
            yield node
            continue
        if node.op.startswith(_RECURRENT) or any(isinstance(argument, Graph) for argument in node.args):
            raise unsupported(f"{node.op} in {place_of(node)}", "runs under autocast on a CPU")
        results = {type_.dtype for type_ in node.types.values()}
        names = {name for name in uses_of(node) if name in types}
        # A number that is a float32 tensor makes no tensor of another dtype float32.
        operands = [types[name] for name in names if types[name].shape or types[name].dtype != _FLOAT32]
        floats = {type_.dtype for type_ in operands if _is_float(type_.dtype)}
        target = _target(node, results, floats, dtype)
        casts: dict[str, Argument] = {}
        for name in sorted(names):
            if target is not None and _is_float(types[name].dtype) and types[name].dtype != target:
                cast = f"{node.name}__{name}"
                yield _cast(cast, name, TensorType(target, types[name].shape), node)
                casts[name] = Value(cast)
        types |= node.types
        names_after = {name: Value(name) for name in uses_of(node)} | casts
        kwargs = {name: _substituted(argument, names_after) for name, argument in node.kwargs.items()}
        yield replace(node, kwargs=kwargs)


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
