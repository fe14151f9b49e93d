"""A graph whose packed sequences are padded batches, as ``seq_lengths`` of the recurrent layers takes them.

A padded batch keeps its padding, as the program's does under ``jax.jit``, and its sequences have any order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxlstm.programs.graph.graph import Argument, Graph, Node, TensorType, Value, same_size, same_sizes
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import live_graph, renamed, results_of, with_names
from jaxlstm_converters.source.graph.sizes import sizes_of
from jaxlstm_converters.source.spelling.layers import TORCH
from jaxlstm_converters.source.spelling.typed_node import ZEROS

_PACK, _PAD, _LAYERS = "jaxlstm.pack_padded.default", "jaxlstm.pad_packed.default", "jaxlstm.packed_"
_ROWWISE = frozenset({"dropout", "relu", "tanh"})  # They make zeros of zeros.


def padded_graph(graph: Graph, held: Mapping[str, TensorType]) -> Graph:
    """Return the graph without cuts, sorting and padding around recurrent layers that need none of them."""
    if not any(node.op.startswith(_LAYERS) for node in graph.nodes):
        return graph
    graph = rewrite(graph, _FullLength(), types=held)
    sorted_once = live_graph(rewrite(graph, _Unsorted(), types=held))
    layers = (sum(node.op.startswith(_LAYERS) for node in g.nodes) for g in (sorted_once, graph))
    # A layer of which the sorted results are used too would run twice.
    kept = sorted_once if len(set(layers)) == 1 else graph
    return rewrite(kept, _Masks(), types=held)


class _FullLength:
    """A rule by which batches keep their padding."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int | str | None, str]] = {}

    def __call__(self, node: Node, site: Site) -> Node | Value:
        made = {name: _with_steps(type_, self._steps) for name, type_ in node.types.items()}
        site.types.update(made)
        if node.op != _PACK:
            return replace(node, types=made)
        axis, source = 1 if node.kwargs["batch_first"] else 0, node.kwargs["input"]
        assert isinstance(source, Value)
        given, cut = site.types[source.name], made[results_of(node)[0]]
        if cut.shape[axis] is not None and not same_size(given, axis, cut, axis):
            # The model requires the longest sequence to be as long as another axis, such as a mask's.
            kwargs = {"self": source, "dim": axis, "start": 0, "end": sizes_of(cut)[axis]}
            return replace(node, op="aten.slice.Tensor", kwargs=kwargs, types=made)
        if given.expressions and cut.expressions:
            self._steps[cut.expressions[axis]] = given.shape[axis], given.expressions[axis]
        return source


def _with_steps(type_: TensorType, steps: Mapping[str, tuple[int | str | None, str]]) -> TensorType:
    """Return a type with the padded batch's number of steps instead of the longest sequence's."""
    shape, texts = list(type_.shape), list(type_.expressions)
    for axis, text in enumerate(texts):
        if text in steps:
            shape[axis], texts[axis] = steps[text]
    return TensorType(type_.dtype, tuple(shape), tuple(texts))


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
    """A rule that adds to each node that runs on sorted sequences its twin, which runs on them unsorted.

    A value that is put in order again is a twin.
    """

    def __init__(self) -> None:
        self._inverses: dict[str, str] = {}  # order that undoes another one -> this one
        self._twins: dict[str, _Twin] = {}

    def __call__(self, node: Node, site: Site) -> Node | Sequence[Node] | Value | None:
        kind = node.op.split(".")[1]
        if kind in ("sort", "argsort", "scatter"):
            self._note_order(node, kind, site)
        elif kind in ("index_select", "index"):
            return self._selected(node, site)
        elif node.op.startswith(_LAYERS) or node.op == _PAD or kind in _ROWWISE or self._cuts_steps(node):
            return self._on_twins(node, site)
        elif kind == "sym_size":  # Both have the same shape.
            return with_names(node, {name: twin.name for name, twin in self._twins.items()})
        return None

    def _note_order(self, node: Node, kind: str, site: Site) -> None:
        *values, order = node.outputs
        source = _values(node, "index" if kind == "scatter" else "self")[0]
        orders = {twin.order for twin in self._twins.values()}
        assert isinstance(order, str)
        is_known = source in orders and not node.kwargs.get("descending")
        if is_known and (kind != "scatter" or _counts(site.maker(node.kwargs["src"]))):
            self._inverses[order] = source
        elif kind == "sort" and node.kwargs.get("descending") and isinstance(values[0], str):
            self._twins[values[0]] = _Twin(source, 0, order)

    def _selected(self, node: Node, site: Site) -> Sequence[Node] | Value | None:
        """Return the twin of a tensor that is put in order again, or of a sorted tensor."""
        indices, (result,) = node.kwargs.get("indices", ()), results_of(node)
        assert isinstance(indices, tuple)
        axis = node.kwargs.get("dim", len(indices) - 1)
        *others, last = indices or [node.kwargs["index"]]
        (source,), index = _values(node, "self"), last.name if isinstance(last, Value) else ""
        twin = self._twins.get(source)
        if any(others) or not isinstance(axis, int):
            return None
        if twin is not None and (self._inverses.get(index), axis) == (twin.order, twin.axis):
            return Value(twin.name)
        if index not in {twin.order for twin in self._twins.values()}:
            return None
        made = site.types[result]
        if same_size(site.types[source], axis, made, axis):
            self._twins[result] = _Twin(source, axis, index)
            return None
        # There may be more sequences than lengths.
        self._twins[result] = twin = _Twin(f"{result} unsorted", axis, index)
        kwargs = {"self": Value(source), "dim": axis, "start": 0, "end": sizes_of(made)[axis]}
        # The layer itself sorts its initial states.
        calls = tuple(call for call in node.calls if not call.class_name.startswith(f"{TORCH}rnn."))
        return node, Node(twin.name, "aten.slice.Tensor", (), kwargs, (twin.name,), calls, {twin.name: made})

    def _cuts_steps(self, node: Node) -> bool:
        """Return True for a slice of the steps of sorted sequences."""
        twin = self._twins.get(_values(node, "self")[0]) if node.op == "aten.slice.Tensor" else None
        return twin is not None and node.kwargs["dim"] == 1 - twin.axis

    def _on_twins(self, node: Node, site: Site) -> Sequence[Node] | None:
        """Add the node on the twins of its arguments, if all of them have one with the same order."""
        hx = node.kwargs.get("hx", ())
        assert isinstance(hx, tuple)
        makers = {value.name: site.maker(value) for value in hx if isinstance(value, Value)}
        states = [name for name, made in makers.items() if made is None or made.op not in ZEROS]
        given = [*_values(node, "input", "data", "self", "lengths"), *states]
        twins = {name: self._twins[name] for name in given if name in self._twins}
        if len(twins) < len(set(given)) or len({twin.order for twin in twins.values()}) != 1:
            return None
        names = {name: f"{name} unsorted" for name in results_of(node)}
        sequences = twins[given[0]]
        for place, output in enumerate(node.outputs):
            if isinstance(output, str):
                axis = 1 if place else sequences.axis  # States have their sequences in axis 1.
                self._twins[output] = _Twin(names[output], axis, sequences.order)
        return node, renamed(node, names | {name: twin.name for name, twin in twins.items()})


def _counts(node: Node | None) -> bool:
    """Return True if a node makes 0, 1, 2, ..."""
    return node is not None and node.op.startswith("aten.arange.") and not node.kwargs.get("start")


class _Masks:
    """A rule that removes masks of results that have zeros after the end of each sequence already."""

    def __init__(self) -> None:
        self._lengths: dict[str, Argument] = {}  # tensor with zeros after the end of each sequence -> lengths

    def __call__(self, node: Node, site: Site) -> Node | Value | None:
        given, made = _values(node, "data", "input", "self")[:1], results_of(node)
        is_rowwise = node.op.split(".")[1] in _ROWWISE and given[0] in self._lengths
        if (node.op.startswith(_LAYERS) and node.outputs[0]) or is_rowwise:
            self._lengths[made[0]] = self._lengths[given[0]] if is_rowwise else node.kwargs["lengths"]
        if node.op != _PAD or not same_sizes(site.types[given[0]], site.types[made[0]]):
            return None
        kwargs = {name: value for name, value in node.kwargs.items() if name != "total_length"}
        is_masked = not kwargs["padding_value"] and self._lengths.get(given[0]) == kwargs["lengths"]
        return Value(given[0]) if is_masked else replace(node, kwargs=kwargs)
