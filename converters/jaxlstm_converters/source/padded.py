"""A graph whose packed sequences are padded batches, as ``seq_lengths`` of the recurrent layers takes them.

A padded batch keeps its padding, as the program's does under ``jax.jit``, and its sequences have any order.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from jaxlstm.programs.graph import (
    Argument,
    Graph,
    Node,
    TensorType,
    Value,
    graph_with_nodes,
    results_of,
    with_names,
)
from jaxlstm_converters.source.calls import live_graph, renamed
from jaxlstm_converters.source.sizes import sizes_of
from jaxlstm_converters.source.spelling.layers import TORCH
from jaxlstm_converters.source.spelling.typed_node import ZEROS, same_size, same_sizes

_PACK, _PAD, _LAYERS = "jaxlstm.pack_padded.default", "jaxlstm.pad_packed.default", "jaxlstm.packed_"
_COPIES = frozenset({"clone", "alias", "to", "_to_copy", "contiguous", "lift_fresh_copy", "detach"})
_ROWWISE = frozenset({"dropout", "relu", "tanh"})  # They make zeros of zeros.


def padded_graph(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph without cuts, sorting and padding around recurrent layers that need none of them."""
    if not any(node.op.startswith(_LAYERS) for node in graph.nodes):
        return graph
    graph = _full_length(graph, dict(types))
    sorted_once = live_graph(_Unsorted(graph, {**types, **graph.types}).graph())
    layers = (sum(node.op.startswith(_LAYERS) for node in g.nodes) for g in (sorted_once, graph))
    # A layer of which the sorted results are used too would run twice.
    kept = sorted_once if len(set(layers)) == 1 else graph
    return _without_masks(kept, types)


def _full_length(graph: Graph, types: dict[str, TensorType]) -> Graph:
    """Return the graph in which batches keep their padding, and copies of tensors are the tensors."""
    names: dict[str, str] = {}
    steps: dict[str, tuple[int | str | None, str]] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = with_names(node, names)
        made = {name: _with_steps(type_, steps) for name, type_ in node.types.items()}
        types |= made
        source = _copied(node, types)
        if node.op == _PACK:
            axis = 1 if node.kwargs["batch_first"] else 0
            (source,) = _values(node, "input")
            given, cut = types[source], made[results_of(node)[0]]
            if given.expressions and cut.expressions:
                steps[cut.expressions[axis]] = given.shape[axis], given.expressions[axis]
        if source is None:
            nodes.append(replace(node, types=made))
        else:
            names[results_of(node)[0]] = source
    return graph_with_nodes(graph, nodes, names)


def _with_steps(type_: TensorType, steps: Mapping[str, tuple[int | str | None, str]]) -> TensorType:
    """Return a type with the padded batch's number of steps instead of the longest sequence's."""
    shape, texts = list(type_.shape), list(type_.expressions)
    for axis, text in enumerate(texts):
        if text in steps:
            shape[axis], texts[axis] = steps[text]
    return TensorType(type_.dtype, tuple(shape), tuple(texts))


def _copied(node: Node, types: Mapping[str, TensorType]) -> str | None:
    """Return the tensor that a node copies."""
    kind, sources, results = node.op.split(".")[1], _values(node, "self"), results_of(node)
    if kind not in _COPIES or not sources or not results:
        return None
    given, made = types[sources[0]].dtype, types[results[0]].dtype
    # A tensor of floats has no gradient if it is detached or copied without gradient.
    is_same = given.kind in "iu" or (kind != "detach" and node.with_gradient)
    return sources[0] if given == made and is_same else None


def _values(node: Node, *names: str) -> list[str]:
    given = (node.kwargs.get(name) for name in names)
    return [value.name for value in given if isinstance(value, Value)]


class _Twin(NamedTuple):
    """The value that holds the sequences of a sorted value in their own order.

    Attributes:
        name: its name.
        axis: the axis of the sequences.
        order: the value that holds the order of the sorted sequences.
    """

    name: str
    axis: int
    order: str


class _Unsorted:
    """Adds to each node that runs on sorted sequences its twin, which runs on them in their own order."""

    def __init__(self, graph: Graph, types: Mapping[str, TensorType]) -> None:
        self._graph, self._types = graph, {**types}
        self._producers = {name: node for node in graph.nodes for name in results_of(node)}
        self._zeros = {name for name, node in self._producers.items() if node.op in ZEROS}
        self._inverses: dict[str, str] = {}  # order that undoes another one -> this one
        self._twins: dict[str, _Twin] = {}
        self._names: dict[str, str] = {}

    def graph(self) -> Graph:
        """Return the graph with the twins; a value that is put in order again is a twin."""
        nodes: list[Node] = []
        for node in self._graph.nodes:
            same_shape = {name: twin.name for name, twin in self._twins.items()}
            is_size = node.op == "aten.sym_size.int"
            named = with_names(node, {**same_shape, **self._names} if is_size else self._names)
            twins = self._twin_of(named)
            self._types.update(*(twin.types for twin in twins))
            nodes += [named, *twins]
        return graph_with_nodes(self._graph, nodes, self._names)

    def _twin_of(self, node: Node) -> list[Node]:
        kind = node.op.split(".")[1]
        if kind in ("sort", "argsort", "scatter"):
            self._note_order(node, kind)
        elif kind in ("index_select", "index"):
            return self._note_selection(node)
        elif node.op.startswith(_LAYERS) or node.op == _PAD or kind in _ROWWISE:
            return self._on_twins(node)
        return []

    def _note_order(self, node: Node, kind: str) -> None:
        *values, order = node.outputs
        source = _values(node, "index" if kind == "scatter" else "self")[0]
        orders = {twin.order for twin in self._twins.values()}
        assert isinstance(order, str)
        is_known = source in orders and not node.kwargs.get("descending")
        if is_known and (kind != "scatter" or self._counts(node)):
            self._inverses[order] = source
        elif kind == "sort" and node.kwargs.get("descending") and isinstance(values[0], str):
            self._twins[values[0]] = _Twin(source, 0, order)

    def _counts(self, node: Node) -> bool:
        """Return True if a node scatters 0, 1, 2, ..."""
        made = self._producers.get(_values(node, "src")[0])
        return made is not None and made.op.startswith("aten.arange.") and not made.kwargs.get("start")

    def _note_selection(self, node: Node) -> list[Node]:
        """Note a tensor that is sorted, or put in order again; return the node that makes its twin."""
        indices, (result,) = node.kwargs.get("indices", ()), results_of(node)
        assert isinstance(indices, tuple)
        axis = node.kwargs.get("dim", len(indices) - 1)
        *others, last = indices or [node.kwargs["index"]]
        (source,), index = _values(node, "self"), last.name if isinstance(last, Value) else ""
        twin = self._twins.get(source)
        if any(others) or not isinstance(axis, int):
            return []
        if twin is not None and (self._inverses.get(index), axis) == (twin.order, twin.axis):
            self._names[result] = twin.name
        elif index in {twin.order for twin in self._twins.values()}:
            made = self._types[result]
            if same_size(self._types[source], axis, made, axis):
                self._twins[result] = _Twin(source, axis, index)
                return []
            # There may be more sequences than lengths.
            self._twins[result] = twin = _Twin(f"{result} unsorted", axis, index)
            kwargs = {"self": Value(source), "dim": axis, "start": 0, "end": sizes_of(made)[axis]}
            # The layer itself sorts its initial states.
            calls = tuple(call for call in node.calls if not call.class_name.startswith(f"{TORCH}rnn."))
            return [Node(twin.name, "aten.slice.Tensor", (), kwargs, (twin.name,), calls, {twin.name: made})]
        return []

    def _on_twins(self, node: Node) -> list[Node]:
        """Return the node on the twins of its arguments, if all of them have one with the same order."""
        hx = node.kwargs.get("hx", ())
        assert isinstance(hx, tuple)
        states = [value.name for value in hx if isinstance(value, Value) and value.name not in self._zeros]
        given = [*_values(node, "input", "data", "self", "lengths"), *states]
        twins = {name: self._twins[name] for name in given if name in self._twins}
        if len(twins) < len(set(given)) or len({twin.order for twin in twins.values()}) != 1:
            return []
        names = {name: f"{name} unsorted" for name in results_of(node)}
        sequences = twins[given[0]]
        for place, output in enumerate(node.outputs):
            if isinstance(output, str):
                axis = 1 if place else sequences.axis  # States have their sequences in axis 1.
                self._twins[output] = _Twin(names[output], axis, sequences.order)
        return [renamed(node, names | {name: twin.name for name, twin in twins.items()})]


def _without_masks(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph without masks of results that have zeros after the end of each sequence already."""
    types = {**types, **graph.types}
    names: dict[str, str] = {}
    lengths: dict[str, Argument] = {}  # tensor with zeros after the end of each sequence -> lengths
    nodes: list[Node] = []
    for node in graph.nodes:
        node = with_names(node, names)
        given, made = _values(node, "data", "input", "self")[:1], results_of(node)
        is_rowwise = node.op.split(".")[1] in _ROWWISE and given[0] in lengths
        if (node.op.startswith(_LAYERS) and node.outputs[0]) or is_rowwise:
            lengths[made[0]] = lengths[given[0]] if is_rowwise else node.kwargs["lengths"]
        if node.op == _PAD and same_sizes(types[given[0]], types[made[0]]):
            kwargs = {name: value for name, value in node.kwargs.items() if name != "total_length"}
            node = replace(node, kwargs=kwargs)
            if not kwargs["padding_value"] and lengths.get(given[0]) == kwargs["lengths"]:
                names[made[0]] = given[0]
                continue
        nodes.append(node)
    return graph_with_nodes(graph, nodes, names)
