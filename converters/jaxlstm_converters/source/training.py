"""The behaviour of a model in training that its program lacks, above all dropout.

An export in evaluation has no trace of dropout that the code skips then, such as the dropout of attention.
A live module is therefore exported again, in training. Both exports are compared node by node: dropout goes
into the graph, where it has no effect in evaluation, and everything else that differs becomes a remark. This
cannot be a rule of ``rewrite``, which sees one graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from jaxlstm.programs.graph.graph import Argument, Graph, Node, TensorType, Value, place_of
from jaxlstm.programs.graph.rewrite import rewrite
from jaxlstm.programs.graph.values import (
    all_nodes,
    functions_of,
    places_of,
    replaced,
    results_of,
    uses_of,
    values_in,
)
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm.programs.passes.constant_casts import with_casts
from jaxlstm.programs.passes.functionalize import functionalize
from jaxlstm.programs.passes.views import without_out
from jaxlstm_converters.pt2._read_pt2 import ProgramFile
from jaxlstm_converters.source.spelling.layers import TORCH, drop_rate

_MODES = frozenset({"train", "training", "dropout_p", "assert_msg"})
"""Arguments that differ between the modes. The message of an assertion has the symbols of its export."""


class Training:
    """The graph of a program with its behaviour in training, above all the rates of dropout.

    Attributes:
      graph: the graph.
      remarks: a line for each part of training that is not in the graph.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, np.ndarray],
        training: ProgramFile | str | None,
        tied: Mapping[str, str],
    ) -> None:
        """Compare a graph with its export in training, or a text why there is none; a file has none.

        ``tied`` has the first name of tensors with several.
        """
        self._tied = tied
        self.graph = graph
        self._found: dict[str, dict[str, None]] = {}
        self._names: dict[str, str] = {}  # value of the export in training -> value of the graph
        self._same: dict[str, str] = {}  # added node or tied tensor -> the value that it equals in evaluation
        self._only = set[str]()  # values that only training has
        self._counters = set[str]()
        if isinstance(training, ProgramFile):
            unknown = sorted(
                {node.op for node in all_nodes(training.graph) if find_operator(node.op) is None}
            )
            training = f"it calls {', '.join(unknown)}" if unknown else training
        if isinstance(training, ProgramFile):
            self._compare(training, tensors)
        else:
            if training:
                self._found["the module cannot be compared in training"] = {training: None}
            self._found["may do more in training, which a file does not record"] = _unrecorded(graph)
        self.remarks = [f"{what}: {', '.join(ops)}" for what, ops in self._found.items() if ops]

    def _compare(self, training: ProgramFile, tensors: Mapping[str, np.ndarray]) -> None:
        graph, (other, cast) = self.graph, with_casts(training.graph, training.tensors)
        names = {**other.parameters, **other.buffers, **other.constants}
        arrays = {value: np.asarray(cast[name]) for value, name in names.items()}
        types = {value: TensorType(array.dtype, array.shape) for value, array in arrays.items()}
        other, _ = functionalize(rewrite(other, without_out), types)
        held: dict[str, str] = {}
        for value, name in (*graph.parameters.items(), *graph.buffers.items()):
            first = held.setdefault(self._tied.get(name, name), value)
            self._same[value] = first
        for value, name in graph.constants.items():
            if np.array_equal(tensors[name], np.asarray(cast.get(name))):
                held[name] = value
        for value, name in {**other.parameters, **other.buffers, **other.constants}.items():
            if (first := self._tied.get(name, name)) in held:
                self._names[value] = held[first]
        self._counters = {v for v, name in other.buffers.items() if name.endswith("num_batches_tracked")}
        merged = self._function(graph, other)
        changed = graph.mutations.items()
        mutations = {k: self._argument(v, other.mutations.get(k, v), f"buffer {k}") for k, v in changed}
        self.graph = replace(merged, mutations=mutations)

    def _function(self, graph: Graph, training: Graph) -> Graph:
        """Return a graph, or a function of a node, with the dropout of the same graph in training."""
        is_inner, outer = graph is not self.graph, (self._names, self._same, self._only)
        if is_inner:  # A function has separate names.
            self._names, self._same, self._only = {}, {}, set()
        inputs = zip(training.inputs, graph.inputs, strict=False)
        self._names |= {theirs.name: ours.name for theirs, ours in inputs}
        nodes: list[Node] = []
        for is_equal, ours, theirs in _aligned(graph.nodes, training.nodes):
            if is_equal:
                nodes += [self._pair(a, b, is_inner) for a, b in zip(ours, theirs, strict=True)]
                continue
            nodes += [added for node in theirs for added in self._added(node, graph)]
            nodes += ours
            for node in ours:
                self._remark("evaluation", node)
        outputs: Any = graph.outputs
        if _masked(outputs) == _masked(training.outputs):
            outputs = self._argument(outputs, training.outputs, "the results")
        else:
            self._found.setdefault("the model has more or fewer results in training", {})["compare"] = None
        if is_inner:
            self._names, self._same, self._only = outer
        return replace(graph, nodes=tuple(nodes), outputs=outputs)

    def _argument(self, ours: Any, theirs: Any, place: str) -> Any:
        """Return an argument with the values that it has in training."""
        used = [*values_in(theirs)]
        values = [self._names.get(name, "") for name in used]
        equal, own = ([self._same.get(name, name) for name in given] for given in (values, values_in(ours)))
        if equal == own:
            return replaced(theirs, lambda value: Value(self._names.get(value.name, value.name)))
        if self._only.isdisjoint(used):  # Others are remarks already.
            self._found.setdefault("other values in training", {})[place] = None
        return ours

    def _pair(self, ours: Node, theirs: Node, is_inner: bool) -> Node:
        """Return a node of both exports, with the values and rates of training."""
        names = [*_operands(ours)]
        mine, others = ((node.args, *_operands(node).values()) for node in (ours, theirs))
        args, *operands = self._argument(mine, others, f"{ours.op} in {place_of(ours)}")
        inner = iter(
            self._function(*pair) for pair in zip(functions_of(ours), functions_of(theirs), strict=True)
        )
        args = tuple(next(inner) if isinstance(argument, Graph) else argument for argument in args)
        kwargs = {**ours.kwargs, **dict(zip(names, operands, strict=True))}
        if not theirs.kwargs.get("train", True):
            kwargs |= {name: 0.0 for name in ("p", "dropout") if name in kwargs}
        rate: Any = theirs.kwargs.get("dropout_p")
        if rate and is_inner:
            self._remark("training", theirs)
        elif rate:
            kwargs["dropout_p"] = rate
        if theirs.kwargs.get("training") is False and kwargs.get("running_mean") is not None:
            self._remark("evaluation", ours)
        for name, own in zip(places_of(theirs), places_of(ours), strict=False):
            if name and own:
                self._names[name] = own
        return replace(ours, args=args, kwargs=kwargs)

    def _added(self, node: Node, graph: Graph) -> list[Node]:
        """Return the node of dropout that only training has; another node is a remark."""
        source = node.kwargs.get("input")
        own = self._names.get(source.name) if isinstance(source, Value) else None
        if own is None or not node.op.endswith("dropout.default") or not node.kwargs.get("train"):
            if self._counters.isdisjoint(uses_of(node)):
                self._remark("training", node)
            self._only.update(results_of(node))
            return []
        name = f"{node.name} training"
        self._names[node.name], self._same[name] = name, self._same.get(own, own)
        kwargs = {**node.kwargs, "input": Value(own), "train": False}
        types = {name: graph.types.get(own, node.types[node.name])}
        return [replace(node, name=name, outputs=(name,), kwargs=kwargs, types=types)]

    def _remark(self, mode: str, node: Node) -> None:
        line = f", line {node.calls[-1].line!r}" if node.calls and node.calls[-1].line else ""
        self._found.setdefault(f"only in {mode}, {place_of(node)}{line}", {})[node.op] = None


def _aligned(
    ours: Sequence[Node], theirs: Sequence[Node]
) -> Iterator[tuple[bool, Sequence[Node], Sequence[Node]]]:
    """Yield runs of nodes: True with equal ones of both graphs, False with the nodes of one graph."""
    keys = [[*map(_key, nodes)] for nodes in (ours, theirs)]
    pairs = enumerate(zip(*keys, strict=False))
    start = next((place for place, (a, b) in pairs if a != b), min(map(len, keys)))
    yield True, ours[:start], theirs[:start]
    matcher = SequenceMatcher(None, keys[0][start:], keys[1][start:], autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        yield tag == "equal", ours[start + i : start + j], theirs[start + k : start + m]


def _key(node: Node) -> Any:
    """Return the parts of a node that are equal in evaluation and training."""
    kwargs = _operands(node)
    return node.op, node.module_path, _masked(node.args), (*kwargs,), _masked((*kwargs.values(),))


def _operands(node: Node) -> dict[str, Argument]:
    """Return the keyword arguments in the order of their names, without None and the mode."""
    given = {name: node.kwargs[name] for name in sorted(node.kwargs) if name not in _MODES}
    return {name: argument for name, argument in given.items() if argument is not None}


def _masked(argument: Any) -> Any:
    """Return an argument in which all values and functions are equal."""
    if isinstance(argument, tuple):
        return tuple(map(_masked, argument))
    return "%" if isinstance(argument, Value | Graph) else repr(argument)


def _unrecorded(graph: Graph) -> dict[str, None]:
    """Return the places of attention, and of other code that reads the mode, except dropout."""
    places: dict[str, None] = {}
    for node in all_nodes(graph):
        own = [call for call in node.calls if not call.class_name.startswith(TORCH)]
        is_torch = any(call.class_name == f"{TORCH}activation.MultiheadAttention" for call in node.calls)
        is_read = any("training" in call.line for call in own) and not drop_rate(node)
        if is_torch or is_read or node.op.startswith("aten.scaled_dot_product_attention."):
            places[place_of(node)] = None
    return places
