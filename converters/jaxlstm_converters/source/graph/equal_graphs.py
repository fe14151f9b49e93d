"""Two exports of one module, in which equal values have one name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxlstm.programs.graph import Graph, Node, TensorType, Value
from jaxlstm.programs.graph.values import (
    functions_of,
    places_of,
    renamed,
    results_of,
    used_values,
    with_arguments,
)
from jaxlstm_converters.source.syntax.names import unique

_SYMBOL = re.compile(r"\b[a-z]+\d+\b")
SIZE_OF_VALUE = re.compile(r"\bu\d")
"""torch's symbol for a size that depends on values; graphs have the same ones for other sizes."""

Tensors = Mapping[str, np.ndarray]


class DifferentError(Exception):
    """Two graphs cannot become one: they have other inputs, parameters or conditions."""


def in_terms_of(
    graph: Graph, tensors: Tensors, other: Graph, others: Tensors
) -> tuple[Graph, Graph, dict[str, np.ndarray]]:
    """Return a graph, and another one with its placeholders and axes, both for the sizes that both take.

    ``tensors`` and ``others`` have their constants by name. The third result holds the constants of the
    other graph that the first lacks.

    Raises:
      DifferentError: they have other inputs or parameters, or the other one takes fewer values of an axis.
    """
    own, sizes = _sizes(graph, other)
    names = {b.name: a.name for a, b in zip(graph.inputs, other.inputs, strict=True)}
    used, held = used_values(other), {n: v for v, n in (*graph.parameters.items(), *graph.buffers.items())}
    for value, name in (*other.parameters.items(), *other.buffers.items()):
        if value in used and name not in held:
            raise DifferentError
        names[value] = held.get(name, value)
    constants, added = {**graph.constants}, dict[str, np.ndarray]()
    for value, name in other.constants.items():
        array = others[name]
        equal = (v for v, n in graph.constants.items() if content_of(tensors[n]) == content_of(array))
        names[value] = next(equal, f"{value} other")
        if names[value] not in graph.constants:
            constants[names[value]] = new = unique(name, {*tensors, *added})
            added[new] = array
    names |= {name: f"{name} other" for node in other.nodes for name in results_of(node)}

    guards = tuple(dict.fromkeys((*graph.guards, *other.guards)))
    inputs = (replace(x, type=x.type and _type_of(x.type, own, "")) for x in graph.inputs)
    graph = replace(
        graph,
        inputs=tuple(inputs),
        nodes=tuple(_with_sizes(node, own, "") for node in graph.nodes),
        constants=constants,
        guards=guards,
        lines={**other.lines, **graph.lines},
    )
    nodes = (renamed(_with_sizes(node, sizes, "_other"), names) for node in other.nodes)
    return graph, replace(graph, nodes=tuple(nodes), outputs=renamed(other.result, names).args), added


def content_of(array: np.ndarray) -> tuple[object, ...]:
    """Return the dtype, the shape and the bytes of an array, which equal arrays share."""
    return array.dtype, array.shape, array.tobytes()


def _sizes(graph: Graph, other: Graph) -> tuple[dict[str, str | int], dict[str, str | int]]:
    """Return for each graph: free axis -> its size in both, an axis of the first graph or a number."""
    pairs = list[tuple[str | int | None, str | int | None]]()
    if len(other.inputs) != len(graph.inputs):
        raise DifferentError
    for a, b in zip(graph.inputs, other.inputs, strict=True):
        shapes = [item.type.shape if item.type else None for item in (a, b)]
        if None in shapes or len(shapes[0] or ()) != len(shapes[1] or ()):
            if (a.type, a.constant) != (b.type, b.constant):
                raise DifferentError
            continue
        pairs += zip(shapes[0] or (), shapes[1] or (), strict=True)
    own: dict[str, str | int] = {axis: axis for axis in graph.free_axes}

    def common(size: str | int | None) -> str | int:
        while isinstance(size, str) and own[size] != size:
            size = own[size]
        if size is None:
            raise DifferentError
        return size

    sizes = dict[str, str | int]()
    for n, m in pairs:
        size, twin = common(n), common(sizes.setdefault(m, common(n)) if isinstance(m, str) else m)
        if isinstance(size, str):
            own[size] = twin
        elif isinstance(twin, str):
            own[twin] = size
        elif size != twin:
            raise DifferentError
    own, sizes = ({axis: common(size) for axis, size in known.items()} for known in (own, sizes))
    for axis, size in sizes.items():
        # Guards narrow the recorded ranges.
        low, high = other.ranges.get(axis, (None, None))
        least, most = graph.size_range(size) if isinstance(size, str) else (size, size)
        if least < (low or 0) or (high is not None and (most is None or most > high)):
            raise DifferentError
    return own, sizes


def _with_sizes(node: Node, sizes: Mapping[str, str | int], suffix: str) -> Node:
    types = {name: _type_of(type_, sizes, suffix) for name, type_ in node.types.items()}
    return replace(node, types=types)


def _type_of(type_: TensorType, sizes: Mapping[str, str | int], suffix: str) -> TensorType:
    """Return a type with other sizes, and a suffix for unknown ones."""
    shape = tuple(sizes.get(n, n + suffix) if isinstance(n, str) else n for n in type_.shape)
    texts = (_SYMBOL.sub(lambda m: str(sizes.get(m[0], m[0] + suffix)), x) for x in type_.expressions)
    return TensorType(type_.dtype, shape, tuple(texts))


def equal_values(first: Graph, second: Graph) -> dict[str, str]:
    """Return value of the second graph -> the value of the first that equals it.

    Values inside of a call of a module are equal only if all of them are: a call stays whole.
    """
    apart = set[str]()
    while True:
        equal = _equal(first, second, apart)
        values = {*equal, *equal.values()}
        nodes = (*first.nodes, *second.nodes)
        new = {call_of(node) for node in nodes if values.isdisjoint(results_of(node))} - {""}
        if new <= apart:
            return equal
        apart |= new


def _equal(first: Graph, second: Graph, apart: set[str]) -> dict[str, str]:
    types, same = {**second.types, **first.types}, dict[str, str]()  # value -> the first that equals it
    known, axes = dict[str, list[Node]](), first.free_axes
    for node in first.nodes:
        twins = known.setdefault(_text(node, same, types, axes), [])
        twins.append(node)
        if node.op.endswith("dropout.default") and not node.kwargs.get("train"):
            # The second graph was not compared with training, and may lack it.
            source = node.kwargs["input"]
            assert isinstance(source, Value)
            same[results_of(node)[0]] = same.get(source.name, source.name)
            continue
        same |= {a: b for a, b in zip(places_of(node), places_of(twins[0]), strict=True) if a and b}
    equal = dict[str, str]()
    for node in second.nodes:
        twins = known.get(_text(renamed(node, equal), same, types, axes), [])
        if not twins or call_of(node) in apart or functions_of(node):
            continue
        twin = twins.pop(0) if len(twins) > 1 else twins[0]
        pairs = {a: b or "" for a, b in zip(places_of(node), places_of(twin), strict=True) if a}
        equal |= pairs if "" not in pairs.values() else {}
    return equal


def _text(node: Node, same: Mapping[str, str], types: Mapping[str, TensorType], axes: Sequence[str]) -> str:
    """Return a text that only equal nodes share."""
    source, axis = node.kwargs.get("self"), node.kwargs.get("dim")
    if node.op == "aten.sym_size.int" and isinstance(source, Value) and isinstance(axis, int):
        size = types[source.name].shape[axis] if source.name in types else None
        if isinstance(size, int) or size in axes:
            return f"size {size}"
    node = with_arguments(node, lambda value: Value(same.get(value.name, value.name)))
    calls = [call.key for call in node.calls]
    return f"{node.op} {node.args} {sorted(node.kwargs.items())} {node.with_gradient} {calls}"


def call_of(node: Node) -> str:
    """Return the call by which the outermost module led to a node, or ""."""
    return node.calls[1].key if len(node.calls) > 1 else ""
