"""Loops of a graph as one ``jax.lax.scan``.

A loop is scanned where its values are traced. On plain arrays the nodes run one by one, so that operators can
check values. It also runs node by node if an iteration changes the shape or dtype of the state.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.graph import Node, Value
from jaxlstm.programs.loop_copies import Loop, Rows
from jaxlstm.programs.unknown_sizes import is_among

Values = dict[str, Any]
RunNode = Callable[[int, Node, Values], None]
"""``(offset, node, values)``: run a node of the body of a loop."""

_JOINS = {"aten.stack.default": True, "aten.cat.default": False}


class Row(NamedTuple):
    """The value of one iteration, as a row of the values of all iterations."""

    stacked: Array
    place: int

    def array(self) -> Array:
        """Return the value."""
        return jax.lax.index_in_dim(self.stacked, self.place, keepdims=False)


class _NotScannable(Exception):  # noqa: N818
    """A loop that must run node by node."""


def run_scan(loop: Loop, values: Values, run: RunNode) -> bool:
    """Run a loop and store its results in ``values``; return False if it must run node by node."""
    if not any(_is_traced(values[name]) for name in loop.inputs):
        return False
    if is_among([values[name] for name in loop.inputs]):
        return False

    def body(state: Values, inputs: Values) -> tuple[Values, Values]:
        inner = {name: _array(values[name]) for name in loop.invariants} | state | inputs
        for offset, node in enumerate(loop.nodes):
            if node is not None:
                _require_places(node, loop, inner)
                run(offset, node, inner)
        after = {name: _require_array(inner[end]) for name, end in loop.state.items()}
        return after, {name: _require_array(inner[name]) for name in loop.collected}

    try:
        state = {name: _require_array(_array(values[name])) for name in loop.state}
        inputs = _inputs(loop, values)
        after, _ = jax.eval_shape(body, state, {name: rows[0] for name, rows in inputs.items()})
    except _NotScannable:
        return False
    if any((after[name].shape, after[name].dtype) != (x.shape, x.dtype) for name, x in state.items()):
        return False
    state, collected = jax.lax.scan(body, state, inputs, length=loop.count)
    for name, end in loop.state.items():
        if end in loop.last:
            values[loop.last[end]] = state[name]
    for name, stacked in collected.items():
        values.update((own, Row(stacked, index)) for index, own in enumerate(loop.collected[name]))
    return True


def join_rows(node: Node, values: Values) -> Array | None:
    """Return the result of a node that stacks or concatenates rows of a loop; None for any other node."""
    items, dim = node.kwargs.get("tensors"), node.kwargs.get("dim", 0)
    if node.op not in _JOINS or not isinstance(items, tuple) or not isinstance(dim, int):
        return None
    found = [values[item.name] for item in items if isinstance(item, Value)]
    if len(found) < len(items) or not any(isinstance(value, Row) for value in found):
        return None
    return _join(found, dim, stack=_JOINS[node.op])


def _join(items: Sequence[Any], dim: int, *, stack: bool) -> Array | None:
    """Return ``torch.stack`` or ``torch.cat`` of rows and arrays of one dtype and rank, or None."""
    if any(not isinstance(item, Array | Row) for item in items):
        return None
    like = [_array(item) if isinstance(item, Array) else jax.eval_shape(item.array) for item in items]
    rank = like[0].ndim
    if len({(x.dtype, x.ndim, x.shape if stack else ()) for x in like}) > 1 or not (rank or stack):
        return None
    dim = dim % (rank + stack)
    pieces = []
    for run in _runs(items):
        if len(run) == 1:
            array = _array(run[0])
            pieces.append(jnp.expand_dims(array, dim) if stack else array)
            continue
        first, last = run[0].place, run[-1].place
        block = run[0].stacked[min(first, last) : max(first, last) + 1]
        block = jnp.moveaxis(block if first < last else block[::-1], 0, dim)
        merged = (*block.shape[:dim], -1, *block.shape[dim + 2 :])
        pieces.append(block if stack else block.reshape(merged))
    return jnp.concatenate(pieces, axis=dim)


def _runs(items: Sequence[Any]) -> list[list[Any]]:
    """Group consecutive rows of one array, forward or backward; every other item is a group."""
    runs: list[list[Any]] = []
    for item in items:
        if runs and _continues(runs[-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _continues(run: Sequence[Any], item: Any) -> bool:
    last = run[-1]
    if not isinstance(last, Row) or not isinstance(item, Row) or item.stacked is not last.stacked:
        return False
    step = item.place - last.place
    return step == last.place - run[-2].place if len(run) > 1 else abs(step) == 1


def _inputs(loop: Loop, values: Values) -> Values:
    """Return the values that move with the iterations, stacked."""
    inputs = {name: _take(_array(values[rows.base]), rows) for name, rows in loop.rows.items()}
    for name, listed in loop.lists.items():
        stacked = _join([values[item] for item in listed], 0, stack=True)
        if stacked is None:
            raise _NotScannable
        inputs[name] = stacked
    return inputs | {name: jnp.asarray(index) for name, index in loop.indices.items()}


def _take(base: Array, rows: Rows) -> Array:
    """Return rows of an array along a new first axis."""
    size = base.shape[rows.axis]
    if not all(-size <= place < size for place in rows.places):
        raise _NotScannable
    moved = jnp.moveaxis(base, rows.axis, 0)
    first, count = rows.places[0], len(rows.places)
    if first >= 0 and rows.places == tuple(range(first, first + count)):
        taken = moved[first : first + count]
    else:
        taken = moved[np.array(rows.places)]
    return jnp.expand_dims(taken, rows.axis % base.ndim + 1) if rows.keep else taken


def _require_places(node: Node, loop: Loop, values: Values) -> None:
    """Raise unless the index of a select lies within its argument in all iterations."""
    index = node.kwargs.get("index")
    if isinstance(index, Value) and index.name in loop.indices:
        base: Any = node.kwargs["self"]
        dim: Any = node.kwargs.get("dim", 0)
        size = values[base.name].shape[dim]
        if not all(-size <= place < size for place in loop.indices[index.name]):
            raise _NotScannable


def _is_traced(value: Any) -> bool:
    value = value.stacked if isinstance(value, Row) else value
    return isinstance(value, Tracer) and value.to_concrete_value() is None


def _array(value: Any) -> Any:
    return value.array() if isinstance(value, Row) else value


def _require_array(value: Any) -> Array:
    if not isinstance(value, Array):
        raise _NotScannable
    return value
