"""Orders of axes: which one an operator wants, and in which ones the arrays of a value are stored."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph.graph import RESULT, Argument, Graph, ModuleCall, Node, TensorType, Value
from jaxlstm.programs.graph.rewrite import Site
from jaxlstm.programs.graph.values import replaced, results_of, values_in, with_results
from jaxlstm.programs.operators.registry import Operator, find_operator

Order = tuple[int, ...]
"""The axis of torch at each axis of an array: (0, 2, 3, 1) for images with channels last."""

Layout = Callable[["Orders", Node, Operator], Node | Sequence[Node] | None]
"""Returns what becomes of a node, or None if its arguments must have torch's order."""

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


def _wanted_orders(graph: Graph, types: Mapping[str, TensorType]) -> dict[str, Order]:
    """Return the order that all consumers of a value want, because a convolution comes after it."""
    votes: defaultdict[str, set[Order | None]] = defaultdict(set)

    def agreed(name: str) -> Order | None:
        return next(iter(votes[name])) if len(votes[name]) == 1 else None

    def vote(argument: Argument, order: Order | None) -> None:
        for name in values_in(argument):
            has_rank = order is not None and name in types and len(types[name].shape) == len(order)
            votes[name].add(order if has_rank else None)

    vote((*graph.outputs, *graph.mutations.values()), None)
    for node in reversed(graph.nodes):
        operator = find_operator(node.op)
        assert operator is not None
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


class Orders:
    """A rule that gives nodes their arguments in the best order of axes, and the orders of stored arrays."""

    def __init__(self, graph: Graph, types: Mapping[str, TensorType], layouts: Mapping[str, Layout]) -> None:
        """Find the order in which each value is wanted; ``layouts`` has a function for layouts."""
        self.types, self._layouts = types, layouts
        self._nodes = *graph.nodes, graph.result
        self.site: Site
        self.wanted = _wanted_orders(graph, types)
        # value -> order -> name of the array with its axes in this order
        self.stored: dict[str, dict[Order, str]] = {n: {own_order(len(t.shape)): n} for n, t in types.items()}
        for node in graph.nodes:
            for name in node.types:
                self.stored[name] = {}
        # permutations of the model that are emitted if nothing else gives their result
        self.waiting: dict[str, tuple[int, Node]] = {}
        self.made = {name: index for index, node in enumerate(graph.nodes) for name in results_of(node)}
        self._weights = {*graph.parameters, *graph.buffers, *graph.constants}

    def __call__(self, node: Node, site: Site) -> Node | Sequence[Node]:
        """Return what becomes of a node."""
        self.site, operator = site, find_operator(node.op)
        layout = self._layouts.get(operator.layout) if operator else None
        new = layout(self, node, operator) if layout and operator else None
        return self.emit(node, None) if new is None else new

    def _plain(self, value: Value) -> Value:
        """Return the array of a value in torch's order."""
        return self.array(value, own_order(self.rank(value))) if value.name in self.types else value

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
        self.site.insert(node, index + 1)  # type: ignore[arg-type]
        self.stored[name][own_order(len(self.types[name].shape))] = name
        return True

    def _permute(self, value: str, source: str, before: Order, after: Order) -> str:
        name = value if after == own_order(len(after)) else self.site.fresh(f"{value}_last")
        dims = tuple(before.index(axis) for axis in after)
        own, made = self.waiting.get(value), self.made.get(source, -1)
        # The module with the model's own permutation makes it, in this order.
        position, calls = (own[0], own[1].calls) if own and made < own[0] else self._place(value, source)
        types = {name: self.types[value].permuted(after)}
        kwargs: dict[str, Argument] = {"self": Value(source), "dims": dims}
        calls = tuple(call._replace(line="") for call in calls)  # No line of the user's code asks for it.
        node = Node(f"{name}_permute", "aten.permute.default", (), kwargs, (name,), calls, types)
        self.site.insert(node, position)
        self.made[name] = position
        return name

    def _place(self, value: str, source: str) -> tuple[int, tuple[ModuleCall, ...]]:
        """Return the place and the calls of a permutation: before the outermost call that needs it."""
        nodes, index, made = self._nodes, self.site.place, self.made.get(source)
        end = nodes[index].calls
        if value in self._weights or nodes[index].op == RESULT:
            return index, end
        depth = 1 if made is None else _common_depth(nodes[made].calls, end)
        first = 0 if made is None else made + 1
        while index > first and _common_depth(nodes[index - 1].calls, end) > depth:
            index -= 1
        return index, end[:depth]

    def _cost(self, value: str, before: Order, after: Order) -> int:
        """Return the number of elements that a permutation moves; axes of size 1 move for free."""
        type_ = self.types[value]
        old, new = ([axis for axis in order if type_.shape[axis] != 1] for order in (before, after))
        sizes = (size if isinstance(size, int) else _ASSUMED_SIZE for size in type_.shape)
        return 0 if old == new else math.prod(sizes)

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
        scored = []
        candidates: list[Order] = [wanted] if wanted else []
        candidates += [order for value in tensors for order in self._stored(value)]
        for order in dict.fromkeys([*candidates, *more]):
            total = cost(order) if cost else sum(self.cost(value, order) for value in tensors)
            if total is not None:
                if wanted and order != wanted:
                    total += self._cost(str(output), order, wanted)
                # Of equal orders, torch's if nothing moves; else the chain goes on.
                is_own = order == own_order(len(order))
                scored.append((total, order != wanted, is_own == (total > 0), order))
        order = min(scored)[-1] if scored else ()
        return None if order == own_order(len(order)) else order

    def emit(self, node: Node, order: Order | None, /, *, op: str | None = None, **changed: Any) -> Node:
        """Return a node with changed arguments whose results have an order; None for torch's."""
        args: Any = replaced(node.args, self._plain)
        kwargs = {n: changed[n] if n in changed else replaced(a, self._plain) for n, a in node.kwargs.items()}
        new = replace(node, op=op or node.op, args=args, kwargs=kwargs | changed)
        names: dict[str, str] = {}
        for name, type_ in node.types.items():
            axes = order or own_order(len(type_.shape))
            names[name] = name if axes == own_order(len(axes)) else self.site.fresh(f"{name}_last")
            self.stored[name] = {axes: names[name]}
            self.made[names[name]] = self.site.place
        if order is None or order == own_order(len(order)):
            return new
        types = {names[name]: type_.permuted(order) for name, type_ in node.types.items()}
        return replace(with_results(new, names), name=node.name, types=types)


def _common_depth(first: Sequence[ModuleCall], second: Sequence[ModuleCall]) -> int:
    """Return the number of calls, from the outermost one, that two nodes share."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0].key == pair[1].key, pairs))


def dims_of(node: Node, operator: Operator, rank: int) -> tuple[str, Any, tuple[int, ...]] | None:
    """Return the name of the argument with axes, its value, and the axes as a tuple; None if unknown."""
    names = [name for name in ("dim", "dims") if name in operator.signature.parameters]
    name = names[0] if names else ""
    value: Any = node.kwargs.get(name, operator.signature.parameters[name].default) if names else None
    listed = (value,) if isinstance(value, int) else () if value is None else value
    if not isinstance(listed, tuple) or not all(type(dim) is int and -rank <= dim < rank for dim in listed):
        return None
    return name, value, tuple(dim % rank for dim in listed)
