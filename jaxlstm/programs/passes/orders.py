"""Orders of axes: which one an operator wants, and in which ones the arrays of a value are stored."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph import Argument, Graph, ModuleCall, Node, TensorType, Value, results_of, values_in
from jaxlstm.programs.operators.registry import Operator, find_operator

Order = tuple[int, ...]
"""The axis of torch at each axis of an array: (0, 2, 3, 1) for images with channels last."""

Rule = Callable[["Rewriter", Node, Operator], bool]

_ASSUMED_SIZE = 64
"""The size of a free axis where orders are compared."""


def own_order(rank: int) -> Order:
    """Return torch's order."""
    return tuple(range(rank))


def is_convolution(node: Node) -> bool:
    """Return True for a convolution, transposed or not, unless the user has registered another one."""
    operator = find_operator(node.op)
    return operator is not None and operator.layout == "channels" and node.op.startswith("aten.conv")


def channel_order(node: Node, rank: int, types: Mapping[str, TensorType]) -> Order:
    """Return the order with channels last for the input of a node that knows channels; torch's if unknown."""
    axis = 1
    if digit := re.search(r"pool(\d)d", node.op):
        axis = rank - int(digit[1]) - 1
    elif is_convolution(node):
        weight = types.get(getattr(node.kwargs.get("weight"), "name", ""))
        axis = rank - len(weight.shape) + 1 if weight else rank
    return (*range(axis), *range(axis + 1, rank), axis) if 0 <= axis < rank else own_order(rank)


def first_tensor(node: Node, operator: Operator) -> Value | None:
    """Return the first argument of a node, if it is a tensor."""
    value = node.kwargs.get(operator.first_parameter)
    return value if isinstance(value, Value) else None


def _wanted_orders(
    graph: Graph, types: Mapping[str, TensorType], operators: Sequence[Operator]
) -> dict[str, Order]:
    """Return the order that all consumers of a value want, because a convolution comes after it."""
    votes: defaultdict[str, set[Order | None]] = defaultdict(set)

    def agreed(name: str) -> Order | None:
        return next(iter(votes[name])) if len(votes[name]) == 1 else None

    def vote(argument: Argument, order: Order | None) -> None:
        for name in values_in(argument):
            fits = order is not None and name in types and len(types[name].shape) == len(order)
            votes[name].add(order if fits else None)

    vote((*graph.outputs, *graph.mutations.values()), None)
    for node, operator in zip(reversed(graph.nodes), reversed(operators), strict=True):
        # These take any order at no cost.
        if operator.layout in ("over", "without") or node.op == "aten.sym_size.int":
            continue
        data, results = first_tensor(node, operator), results_of(node)
        order = agreed(results[0]) if results else None
        if operator.layout == "channels" and data is not None and data.name in types:
            last = channel_order(node, len(types[data.name].shape), types)
            vote(data, last if order == last or is_convolution(node) else None)
            vote(tuple(value for value in node.kwargs.values() if value != data), None)
        else:
            follows = operator.layout in ("elementwise", "along", "pads")
            vote((*node.args, *node.kwargs.values()), order if follows else None)
    return {name: order for name in [*votes] if (order := agreed(name))}


class Rewriter:
    """The state of the pass, at one node after the other."""

    def __init__(self, graph: Graph, types: Mapping[str, TensorType]) -> None:
        self.graph = graph
        self.types = types
        self.operators = tuple(found for node in graph.nodes if (found := find_operator(node.op)))
        self.index = 0
        self.wanted = _wanted_orders(graph, types, self.operators)
        # value -> order -> name of the array with its axes in this order
        self.stored: dict[str, dict[Order, str]] = {n: {own_order(len(t.shape)): n} for n, t in types.items()}
        for node in graph.nodes:
            for name in node.types:
                self.stored[name] = {}
        # permutations of the model that are emitted if nothing else gives their result
        self.waiting: dict[str, tuple[int, Node]] = {}
        self.made = {name: index for index, node in enumerate(graph.nodes) for name in results_of(node)}
        self.weights = {*graph.parameters, *graph.buffers, *graph.constants}
        self.names = {*types, *self.made, *(declared.name for declared in graph.inputs)}
        self.emitted: list[tuple[tuple[int, int], Node]] = []

    def rewritten(self, rules: Mapping[str, Rule]) -> Graph:
        """Return the graph after a rule has emitted each node; nodes without a rule stay in torch's order.

        Args:
          rules: layout of an operator -> a function that emits a node, or returns False if it must stay.
        """
        for index, node in enumerate(self.graph.nodes):
            self.index = index
            operator = self.operators[index]
            rule = rules.get(operator.layout)
            if rule is None or not rule(self, node, operator):
                self._keep(node)
        self.index = len(self.graph.nodes)
        outputs = tuple(map(self.plain, self.graph.outputs))
        mutations = {name: self.plain(argument) for name, argument in self.graph.mutations.items()}
        nodes = tuple(node for _, node in sorted(self.emitted, key=lambda pair: pair[0]))
        return replace(self.graph, nodes=nodes, outputs=outputs, mutations=mutations)

    def plain(self, argument: Argument) -> Argument:
        """Return an argument with its tensors in torch's order."""
        if isinstance(argument, tuple):
            return tuple(map(self.plain, argument))
        if isinstance(argument, Value) and argument.name in self.types:
            return self.array(argument, own_order(self.rank(argument)))
        return argument

    def rank(self, value: Value) -> int:
        """Return the number of axes of a tensor."""
        return len(self.types[value.name].shape)

    def array(self, value: Value, order: Order) -> Value:
        """Return the array of a value with its axes in an order; permute it if there is none."""
        stored = self.stored[value.name]
        if order not in stored:
            if order == own_order(len(order)) and self._emit_waiting(value.name):
                return value
            source = min(stored, key=lambda source: self._cost(value.name, source, order))
            stored[order] = self._permute(value.name, stored[source], source, order)
        return Value(stored[order])

    def _emit_waiting(self, name: str) -> bool:
        """Emit the model's own permutation that defines a value, if its input has torch's order."""
        index, node = self.waiting.get(name, (0, None))
        value = node and node.kwargs["self"]
        if not isinstance(value, Value):
            return False
        if self.stored[value.name].get(own_order(self.rank(value))) != value.name:
            return False
        if self.made.get(value.name, -1) > index:
            return False  # The array in torch's order was made later than the permutation stands.
        self.emitted.append(((index, 1), node))  # type: ignore[arg-type]
        self.stored[name][own_order(len(self.types[name].shape))] = name
        return True

    def _permute(self, value: str, source: str, before: Order, after: Order) -> str:
        name = value if after == own_order(len(after)) else self._fresh(value)
        dims = tuple(before.index(axis) for axis in after)
        own, made = self.waiting.get(value), self.made.get(source, -1)
        # The module with the model's own permutation makes it, in this order.
        position, calls = (own[0], own[1].calls) if own and made < own[0] else self._place(value, source)
        types = {name: self.types[value].permuted(after)}
        kwargs: dict[str, Argument] = {"self": Value(source), "dims": dims}
        calls = tuple(call._replace(line="") for call in calls)  # No line of the user's code asks for it.
        node = Node(f"{name}_permute", "aten.permute.default", (), kwargs, (name,), calls, types)
        self.emitted.append(((position, 0), node))
        self.made[name] = position
        return name

    def _fresh(self, value: str) -> str:
        name = f"{value}_last"
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def _place(self, value: str, source: str) -> tuple[int, tuple[ModuleCall, ...]]:
        """Return the place and the calls of a permutation: before the outermost call that needs it."""
        nodes, index, made = self.graph.nodes, self.index, self.made.get(source)
        if index == len(nodes):
            return index, nodes[-1].calls[:1]
        end = nodes[index].calls
        if value in self.weights:
            return index, end
        depth = 1 if made is None else _common_depth(nodes[made].calls, end)
        first = 0 if made is None else made + 1
        while index > first and _common_depth(nodes[index - 1].calls, end) > depth:
            index -= 1
        return index, end[:depth]

    def _cost(self, value: str, before: Order, after: Order) -> int:
        """Return the number of elements that a permutation moves; axes of size 1 move for free."""
        type_ = self.types[value]
        before, after = ([axis for axis in o if type_.shape[axis] != 1] for o in (before, after))  # type: ignore[assignment]
        sizes = (size if isinstance(size, int) else _ASSUMED_SIZE for size in type_.shape)
        return 0 if before == after else math.prod(sizes)

    def cost(self, value: Value, order: Order) -> int:
        """Return the number of elements that are moved to have a value in an order."""
        return min(self._cost(value.name, source, order) for source in self._stored(value))

    def _stored(self, value: Value) -> Mapping[Order, str]:
        return self.stored[value.name] or {own_order(self.rank(value)): ""}

    def best(
        self,
        tensors: Sequence[Value],
        output: str | None,
        more: Sequence[Order] = (),
        cost: Callable[[Order], int | None] | None = None,
    ) -> Order | None:
        """Return the order in which the fewest elements move; None for torch's.

        Args:
          tensors: values; the orders in which they are stored are candidates.
          output: the result that has the same order, and may be wanted in another one.
          more: more candidates.
          cost: order -> number of elements, or None if it is impossible; by default all tensors take it.
        """
        wanted = self.wanted.get(output or "")
        found = []
        candidates: list[Order] = [wanted] if wanted else []
        candidates += [order for value in tensors for order in self._stored(value)]
        for order in dict.fromkeys([*candidates, *more]):
            total = cost(order) if cost else sum(self.cost(value, order) for value in tensors)
            if total is not None:
                if wanted and order != wanted:
                    total += self._cost(str(output), order, wanted)
                # Of equal orders, torch's if nothing moves; else the chain goes on.
                is_own = order == own_order(len(order))
                found.append((total, order != wanted, is_own == (total > 0), order))
        order = min(found)[-1] if found else ()
        return None if order == own_order(len(order)) else order

    def emit(
        self, node: Node, order: Order | Callable[[str], Order], /, *, op: str | None = None, **changed: Any
    ) -> bool:
        """Emit a node with changed arguments whose results have an order; return True."""
        names: dict[str, str] = {}
        types = dict(node.types)
        for name in results_of(node):
            if name in types:
                own = order if isinstance(order, tuple) else order(name)
                names[name] = name if own == own_order(len(own)) else self._fresh(name)
                self.stored[name] = {own: names[name]}
                types[names[name]] = types.pop(name).permuted(own)
                self.made[names[name]] = self.index
        kwargs = {n: changed[n] if n in changed else self.plain(a) for n, a in node.kwargs.items()}
        outputs = tuple(_renamed(output, names) for output in node.outputs)
        kwargs |= changed
        new = replace(node, op=op or node.op, kwargs=kwargs, outputs=outputs, types=types)
        self.emitted.append(((self.index, 1), new))
        return True

    def _keep(self, node: Node) -> None:
        """Emit a node on arrays in torch's order."""
        node = replace(node, args=tuple(map(self.plain, node.args)))
        self.emit(node, lambda name: own_order(len(self.types[name].shape)))


def _renamed(output: Any, names: Mapping[str, str]) -> Any:
    if isinstance(output, tuple):
        return tuple(_renamed(name, names) for name in output)
    return names.get(output, output)


def _common_depth(first: Sequence[ModuleCall], second: Sequence[ModuleCall]) -> int:
    """Return the number of calls, from the outermost one, that two nodes share."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0].key == pair[1].key, pairs))
