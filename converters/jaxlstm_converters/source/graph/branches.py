"""The branches of a condition on values, two separate graphs, as one graph with ``higher_order.cond``."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Argument, Graph, Input, Node, TensorType, Tree, Value, live_graph
from jaxlstm.programs.graph.graph import same_sizes
from jaxlstm.programs.graph.values import renamed, results_of, uses_of
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.program import Program
from jaxlstm_converters.source.graph.equal_graphs import (
    SIZE_OF_VALUE,
    DifferentError,
    call_of,
    equal_values,
    in_terms_of,
)
from jaxlstm_converters.source.graph.guarded_results import OPPOSITES, with_asserted_values

_NOT = "aten.logical_not.default"


def with_branches(
    graph: Graph, conditions: Sequence[Value], program: Program, tensors: dict[str, np.ndarray]
) -> tuple[Graph, Sequence[Value]]:
    """Return a graph that is right under conditions, and the other branch of its program, as one graph.

    Equal nodes of both run once, before or after the branches. ``tensors`` has the program's tensors by name,
    and gets the constants of the other branch.

    Returns:
      The graph, and the conditions under which it is right: none for both branches. If there is not exactly
      one other branch, or if that needs other inputs, the given graph and conditions.
    """
    stored = getattr(program.at_sizes, "stored", None)
    others: Sequence[Program] = stored() if stored is not None and conditions else ()
    if len(others) != 1:
        return graph, conditions
    constants = {name: np.asarray(array) for name, array in others[0].constants.items()}
    try:
        asserted, values = with_asserted_values(others[0].graph)
        asserted = replace(asserted, outputs=(*asserted.outputs, *values))
        graph_, other, added = in_terms_of(graph, tensors, asserted, constants)
        count = len(others[0].graph.outputs)
        other, other_conditions = replace(other, outputs=other.outputs[:count]), other.outputs[count:]
        joined = _joined(
            _without_assertions(graph_, conditions), _without_assertions(other, other_conditions)
        )
    except DifferentError:
        return graph, conditions
    tensors |= added
    return joined, []


def _without_assertions(graph: Graph, conditions: Sequence[Argument]) -> Graph:
    """Return a graph without assertions, whose last result is whether its only condition holds.

    Raises:
      DifferentError: there are other conditions, or the graph packs sequences or changes buffers.
    """
    of_values = {*graph.types}
    for node in graph.nodes:
        if node.op not in ASSERTIONS and not of_values.isdisjoint(uses_of(node)):
            of_values.update(() if node.op.startswith("aten.sym_") else results_of(node))
    has_others = any(node.op in ASSERTIONS and of_values.isdisjoint(uses_of(node)) for node in graph.nodes)
    packs = any(node.op == "jaxlstm.pack_padded.default" for node in graph.nodes)
    if has_others or packs or graph.mutations or len(conditions) != 1:
        raise DifferentError
    nodes = tuple(node for node in graph.nodes if node.op not in ASSERTIONS)
    return live_graph(replace(graph, nodes=nodes, outputs=(*graph.outputs, *conditions)))


def _joined(first: Graph, second: Graph) -> Graph:
    """Return two branches as one graph, which is right if always one of the two is."""
    equal = equal_values(first, second)
    own = (node for node in second.nodes if equal.keys().isdisjoint(results_of(node)))
    second = second.with_nodes((renamed(node, equal) for node in own), renamed(second.result, equal))
    outputs, truths = zip(
        *((graph.outputs[:-1], graph.outputs[-1]) for graph in (first, second)), strict=True
    )
    # Dropout that only the first has belongs to its equal values.
    needed = (*truths, *map(Value, equal.values()))
    both = replace(first, nodes=(*first.nodes, *second.nodes), outputs=needed)
    shared = {name for node in live_graph(both).nodes for name in results_of(node)}
    head = [node for node in both.nodes if not shared.isdisjoint(results_of(node))]
    rests = [[n for n in graph.nodes if shared.isdisjoint(results_of(n))] for graph in (first, second)]
    inside = [node for rest in rests for node in rest]
    if {*map(call_of, head)} & {*map(call_of, inside)} - {""} or any(map(_has_unknown_size, inside)):
        raise DifferentError
    types = {**second.types, **first.types}
    end = _End(rests, outputs, types)
    holds, otherwise = truths
    makers = {name: node for node in head for name in results_of(node)}
    is_negated = _is_opposite(holds, otherwise, makers, types)
    if not is_negated and not _is_opposite(otherwise, holds, makers, types):
        raise DifferentError
    if end.pairs:
        branches = [*zip(end.starts, zip(*end.pairs, strict=True), strict=True)]
        if is_negated and makers[holds.name].op == _NOT:
            holds, branches = otherwise, branches[::-1]
        head.append(_cond(holds, branches, [*end.pairs.values()], types, first.result))
    return live_graph(replace(first, nodes=(*head, *end.nodes), outputs=end.outputs))


def _is_opposite(
    truth: Value, other: Value, makers: Mapping[str, Node], types: Mapping[str, TensorType]
) -> bool:
    """Return True for a truth that is made of another as its opposite, or by comparing integers."""
    one, another = makers.get(truth.name), makers.get(other.name)
    if one is None or one.op == _NOT or another is None:
        return one is not None and one.op == _NOT and one.kwargs["self"] == other
    tensor = one.kwargs.get("self")
    is_integer = isinstance(tensor, Value) and types[tensor.name].dtype.kind in "iu"
    kinds = [node.op.split(".")[1] for node in (one, another)]
    return is_integer and OPPOSITES.get(kinds[0]) == kinds[1] and one.kwargs == another.kwargs


class _End:
    """The nodes with which two branches end alike.

    Attributes:
      starts: the nodes of each branch before them.
      nodes: the nodes.
      outputs: the results of the graph.
      pairs: values of the two branches that the nodes take -> name of the one of the branch that runs.
    """

    def __init__(
        self, rests: Sequence[list[Node]], outputs: Sequence[Any], types: Mapping[str, TensorType]
    ) -> None:
        self._types = types
        alike = zip(*map(reversed, rests), strict=False)
        count = sum(1 for _ in itertools.takewhile(lambda pair: _form(pair[0]) == _form(pair[1]), alike))
        while True:
            self.starts, ends = zip(*((x[: len(x) - count], x[len(x) - count :]) for x in rests), strict=True)
            self.pairs = dict[tuple[Value, Value], str]()
            pairs = [*zip(*ends, strict=True)]
            self._same = {b: a for pair in pairs for a, b in zip(*map(results_of, pair), strict=True)}
            self._made, self.nodes = {*self._same, *self._same.values()}, list[Node]()
            try:
                for pair in pairs:
                    self.nodes.append(self._node(*pair))
                self.outputs = tuple(map(self._argument, *outputs))
                return
            except DifferentError:
                if not count:
                    raise
                # The nodes after this one may still be alike.
                count -= min(len(self.nodes) + 1, count)

    def _node(self, first: Node, second: Node) -> Node:
        args = tuple(map(self._argument, first.args, second.args))
        kwargs = {name: self._argument(x, second.kwargs[name]) for name, x in first.kwargs.items()}
        return replace(first, args=args, kwargs=kwargs)

    def _argument(self, first: Argument, second: Argument) -> Argument:
        """Return an argument of both branches."""
        if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
            return tuple(map(self._argument, first, second))
        if not isinstance(first, Value) or not isinstance(second, Value):
            if first != second or type(first) is not type(second):
                raise DifferentError
            return first
        if self._same.get(second.name, second.name) == first.name:
            return first
        one, other = (self._types.get(value.name) for value in (first, second))
        is_inside = not self._made.isdisjoint((first.name, second.name))
        if is_inside or not one or not other or one.dtype != other.dtype or not same_sizes(one, other):
            raise DifferentError
        name = f"{first.name} or {second.name}"
        return Value(self.pairs.setdefault((first, second), name))


def _form(node: Node) -> object:
    """Return the parts of a node that are equal where branches end alike."""
    calls = [call.key for call in node.calls]
    return node.op, calls, len(node.args), sorted(node.kwargs), node.with_gradient, len(results_of(node))


def _has_unknown_size(node: Node) -> bool:
    """Return True for a result whose size depends on values: a branch is traced, also outside of ``jit``."""
    return any(SIZE_OF_VALUE.search(f"{type_.shape} {type_.expressions}") for type_ in node.types.values())


def _cond(
    holds: Argument,
    branches: Sequence[tuple[Sequence[Node], Sequence[Value]]],
    names: Sequence[str],
    types: Mapping[str, TensorType],
    result: Node,
) -> Node:
    """Return the node that computes the values of one of two branches."""
    made = {name for nodes, _ in branches for node in nodes for name in results_of(node)}
    used = [name for nodes, values in branches for node in nodes for name in uses_of(node)]
    used += [value.name for _, values in branches for value in values]
    operands = [name for name in dict.fromkeys(used) if name not in made]
    functions = [
        Graph(
            inputs=tuple(Input(name, types.get(name)) for name in operands),
            nodes=tuple(nodes),
            outputs=tuple(values),
            in_tree=Tree("tuple"),
            out_tree=Tree("tuple"),
        )
        for nodes, values in branches
    ]
    result_types = {name: types[value.name] for name, value in zip(names, branches[0][1], strict=True)}
    args, kwargs = (holds, *functions, tuple(map(Value, operands))), {"by_name": True}
    return Node("branches", "higher_order.cond", args, kwargs, tuple(names), result.calls, result_types)
