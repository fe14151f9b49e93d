"""Channels last: convolutions and the operators between them on images of shape (N, *size, C).

torch has (N, C, *size). On a CPU, XLA's convolutions are faster with the channels last, and so are products
with 1x1 kernels and sums of shifted images. :func:`channels_last` rewrites a graph: convolutions, norms,
pools and the like become the operators of the same names in the namespace ``channels_last``, elementwise
operators stay, other operators get the new numbers of their axes, and an ``aten.permute.default`` stands
where a chain of such operators begins or ends. A permutation of the model that undoes another one disappears.

The pass keeps, for each value, the orders of axes in which it is stored. A convolution asks for its input
with channels last; any other operator takes the order in which the fewest elements are transposed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Graph, Node, Size, TensorType, Value, results_of, rewrite
from jaxlstm.programs.operators.registry import CHANNELS_LAST, Operator
from jaxlstm.programs.passes.orders import (
    Layout,
    Order,
    Orders,
    channel_order,
    dims_of,
    first_tensor,
    is_convolution,
    own_order,
)


def channels_last(graph: Graph, tensors: Mapping[str, Any]) -> Graph:
    """Return a graph with the same inputs and results that keeps the channels last between convolutions.

    Graphs without convolutions, and the functions of ``cond`` and loops, stay as they are.

    Args:
      graph: an accepted graph.
      tensors: name in torch -> parameter, buffer or constant, or anything else with a shape and dtype.
    """
    if not any(is_convolution(node) for node in graph.nodes):
        return graph
    names = {**graph.parameters, **graph.buffers, **graph.constants}
    arrays = {value: tensors[name] for value, name in names.items()}
    types = {value: TensorType(np.dtype(a.dtype), tuple(a.shape)) for value, a in arrays.items()}
    types |= graph.types
    return rewrite(graph, Orders(graph, types, _LAYOUTS))


def _without(order: Order, axes: Iterable[int]) -> Order:
    """Return the order of the axes that remain after some of torch's axes are removed."""
    remaining = [axis for axis in order if axis not in set(axes)]
    return tuple(sorted(remaining).index(axis) for axis in remaining)


def _elementwise(state: Orders, node: Node, operator: Operator) -> Node | None:
    outputs, args = results_of(node), tuple(node.kwargs.values())
    tensors = [value for value in args if isinstance(value, Value) and value.name in state.types]
    if len(outputs) != 1 or outputs[0] not in node.types or any(isinstance(value, tuple) for value in args):
        return None
    rank = len(node.types[outputs[0]].shape)

    def part(value: Value, order: Order) -> Order | None:
        """Return the order of an operand, whose axes are the last ones; None if they leave them."""
        skipped = rank - state.rank(value)
        return tuple(a - skipped for a in order[skipped:]) if order[:skipped] == own_order(skipped) else None

    def cost(order: Order) -> int | None:
        orders = [part(value, order) if state.rank(value) else () for value in tensors]
        if any(order is None for order in orders):
            return None
        return sum(state.cost(value, axes) for value, axes in zip(tensors, orders, strict=True) if axes)

    full_rank = [value for value in tensors if state.rank(value) == rank]
    order = state.best(full_rank, outputs[0], [own_order(rank)], cost)
    if order is None:
        return None
    changed = {}
    for name, value in node.kwargs.items():
        if isinstance(value, Value) and value.name in state.types and state.rank(value):
            changed[name] = state.array(value, part(value, order) or ())
    return state.emit(node, order, **changed)


def _channels(state: Orders, node: Node, operator: Operator) -> Node | None:
    operand = _tensor_and_rank(state, node, operator)
    if operand is None:
        return None
    value, rank = operand
    last = channel_order(node, rank, state.types)
    order: Order | None = last
    if not is_convolution(node):
        order = state.best([value], results_of(node)[0], [last, own_order(rank)])
    if order != last or last == own_order(rank):
        return None
    op = CHANNELS_LAST + node.op.removeprefix("aten.")
    return state.emit(node, last, op=op, **{operator.first_parameter: state.array(value, last)})


def _tensors(state: Orders, node: Node, operator: Operator) -> list[Value]:
    """Return the first argument as a list of tensors of one rank; empty if it is anything else."""
    argument = node.kwargs.get(operator.first_parameter)
    values = [v for v in (argument if isinstance(argument, tuple) else (argument,)) if isinstance(v, Value)]
    typed = [value for value in values if value.name in state.types]
    alike = len({state.rank(value) for value in typed}) == 1
    return typed if alike and len(typed) == len(argument if isinstance(argument, tuple) else (1,)) else []


def _arrays(
    state: Orders, node: Node, operator: Operator, tensors: Sequence[Value], order: Order
) -> dict[str, Any]:
    """Return the first argument of a node, a tensor or a list of tensors, in an order."""
    arrays = tuple(state.array(tensor, order) for tensor in tensors)
    first = operator.first_parameter
    return {first: arrays if isinstance(node.kwargs[first], tuple) else arrays[0]}


def _by_axes(
    order_after: Callable[[Order, tuple[int, ...]], Order], state: Orders, node: Node, operator: Operator
) -> Node | None:
    """Emit a node with its axes renamed; ``order_after`` returns the order of the results."""
    tensors = _tensors(state, node, operator)
    named_dims = dims_of(node, operator, state.rank(tensors[0])) if tensors else None
    if named_dims is None:
        return None
    name, value, dims = named_dims
    outputs = [output for output in results_of(node) if output in node.types]
    follows = outputs[0] if outputs and len(node.types[outputs[0]].shape) == state.rank(tensors[0]) else None
    order = state.best(tensors, follows)
    if order is None:
        return None
    result = order_after(order, dims)
    if any(len(node.types[output].shape) != len(result) for output in outputs):
        return None
    places = tuple(order.index(dim) for dim in dims)
    changed = _arrays(state, node, operator, tensors, order)
    if value is not None and value != ():
        changed[name] = places[0] if isinstance(value, int) else places
    return state.emit(node, result, **changed)


def _over(state: Orders, node: Node, operator: Operator) -> Node | None:
    if node.op.startswith("aten.arg") and node.kwargs.get("dim") is None:
        return None  # The index of the flattened tensor.

    def after(order: Order, dims: tuple[int, ...]) -> Order:
        return order if node.kwargs.get("keepdim") else _without(order, dims or order)

    return _by_axes(after, state, node, operator)


def _tensor_and_rank(state: Orders, node: Node, operator: Operator) -> tuple[Value, int] | None:
    """Return the tensor of a node and the rank of its only result."""
    value, outputs = first_tensor(node, operator), results_of(node)
    if value is None or value.name not in state.types or len(outputs) != 1 or outputs[0] not in node.types:
        return None
    return value, len(node.types[outputs[0]].shape)


def _single(state: Orders, node: Node, operator: Operator) -> tuple[Value, Order, int] | None:
    """Return the tensor of a node, the order to take it in, and the rank of the result; None for torch's."""
    operand = _tensor_and_rank(state, node, operator)
    if operand is None:
        return None
    value, rank = operand
    follows = results_of(node)[0] if rank == state.rank(value) else None
    order = state.best([value], follows)
    return None if order is None else (value, order, rank)


def _writes(state: Orders, node: Node, operator: Operator) -> Node | None:
    """Write a part of an axis, or of one place of it, in any order."""
    operand, src, dim = _single(state, node, operator), node.kwargs.get("src"), node.kwargs.get("dim", 0)
    if not operand or not isinstance(src, Value) or src.name not in state.types or type(dim) is not int:
        return None
    value, order, rank = operand
    part = order if state.rank(src) == rank else _without(order, (dim % rank,))
    arrays: dict[str, Any] = {"self": state.array(value, order), "src": state.array(src, part)}
    return state.emit(node, order, **arrays, dim=order.index(dim % rank))


def _squeezes(state: Orders, node: Node, operator: Operator) -> Node | None:
    operand = _single(state, node, operator)
    dims = operand and dims_of(node, operator, state.rank(operand[0]))
    if not operand or not dims:
        return None
    value, order, rank = operand
    candidates = order if dims[1] is None else dims[2]
    removed = [axis for axis in candidates if state.types[value.name].shape[axis] == 1]
    if len(order) - len(removed) != rank:
        return None
    places = tuple(sorted(order.index(axis) for axis in removed))
    array = state.array(value, order)
    return state.emit(node, _without(order, removed), op="aten.squeeze.dims", self=array, dim=places)


def _inserts(state: Orders, node: Node, operator: Operator) -> Node | None:
    tensors, outputs, dim = _tensors(state, node, operator), results_of(node), node.kwargs.get("dim", 0)
    if not tensors or type(dim) is not int or len(outputs) != 1 or outputs[0] not in node.types:
        return None
    rank = state.rank(tensors[0]) + 1
    order = state.best(tensors, None) or own_order(rank - 1)
    new = dim % rank
    shifted = [axis + (axis >= new) for axis in order]
    results = [(*shifted[:place], new, *shifted[place:]) for place in range(rank)]
    # The new axis may stand where the convolution after it wants it.
    preferred = state.wanted.get(outputs[0]), own_order(rank), (0, *range(2, rank), 1), results[new]
    result = next(order for order in preferred if order in results)
    return state.emit(node, result, **_arrays(state, node, operator, tensors, order), dim=result.index(new))


def _pads(state: Orders, node: Node, operator: Operator) -> Node | None:
    operand = _single(state, node, operator)
    name = "padding" if "padding" in node.kwargs else "pad"
    padding: Any = node.kwargs.get(name)
    if operand is None or not isinstance(padding, tuple) or len(padding) % 2 or len(padding) > 2 * operand[2]:
        return None
    value, order, rank = operand
    pairs = [(0, 0)] * (rank - len(padding) // 2) + list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    reordered = [number for axis in reversed(order) for number in pairs[axis]]
    while reordered[-2:] == [0, 0]:
        del reordered[-2:]
    return state.emit(node, order, **{"self": state.array(value, order), name: tuple(reordered)})


def _merges(state: Orders, node: Node, operator: Operator) -> Node | None:
    """Merge axes that stand next to each other in the order, too."""
    operand = _single(state, node, operator)
    merged = operand and _merged(state.types[operand[0].name].shape, node.types[results_of(node)[0]].shape)
    if not operand or not merged:
        return None
    value, order, _ = operand
    start, end = merged
    places = sorted(order.index(axis) for axis in range(start, end + 1))
    first = places[0]
    long_axes = [axis for axis in order if start <= axis <= end and state.types[value.name].shape[axis] != 1]
    if places != list(range(first, first + len(places))) or long_axes != sorted(long_axes):
        return None
    result = _without(order, range(start + 1, end + 1))
    kwargs = {"self": state.array(value, order), "start_dim": first, "end_dim": first + end - start}
    dropped = replace(node, kwargs={"self": value})
    return state.emit(dropped, result, op="aten.flatten.using_ints", **kwargs)


def _merged(before: Sequence[Size], after: Sequence[Size]) -> tuple[int, int] | None:
    """Return the first and the last of consecutive axes that a reshape merges; None for any other one."""
    removed = len(before) - len(after)
    for start in range(len(after)) if removed > 0 else ():
        remaining = (*before[:start], *before[start + removed + 1 :])
        if not {None, 0} & {*remaining} and remaining == (*after[:start], *after[start + 1 :]):
            return start, start + removed
    return None


_PERMUTATIONS: dict[str, Callable[..., np.ndarray]] = {
    "dims": lambda x, dims: np.transpose(x, dims),
    "dim0": lambda x, dim0, dim1: np.swapaxes(x, dim0, dim1),
    "source": lambda x, source, destination: np.moveaxis(x, source, destination),
}


def _permutes(state: Orders, node: Node, operator: Operator) -> Sequence[Node] | None:
    operand = _tensor_and_rank(state, node, operator)
    # A permutation inside of no_grad stops the gradient, so it cannot be left out.
    if operand is None or not node.with_gradient:
        return None
    (value, rank), (output,) = operand, results_of(node)
    kwargs: dict[str, Any] = {n: a for n, a in operator.arguments(node.kwargs).items() if a != value}
    permute = next((function for name, function in _PERMUTATIONS.items() if name in kwargs), None)
    try:
        # Sizes 0, 1, 2, ... show where each axis goes.
        order = permute(np.empty(own_order(state.rank(value))), **kwargs).shape if permute else ()
    except (TypeError, ValueError, IndexError):
        order = ()
    if len(order) != rank or len(order) != state.rank(value):
        return None  # If the file is malformed, running the program raises, and names the node.
    state.stored[output] = {
        tuple(order.index(axis) for axis in stored): name for stored, name in state.stored[value.name].items()
    }
    state.waiting[output] = state.site.place, node
    return ()


_LAYOUTS: dict[str, Layout] = {
    "elementwise": _elementwise,
    "channels": _channels,
    "along": partial(_by_axes, lambda order, dims: order),
    "over": _over,
    "writes": _writes,
    "without": partial(_by_axes, _without),
    "squeezes": _squeezes,
    "inserts": _inserts,
    "pads": _pads,
    "merges": _merges,
    "permutes": _permutes,
}
