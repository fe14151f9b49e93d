"""``LoopStep``: a loop of a graph as one ``jax.lax.scan``.

A loop is scanned where its values are traced. On plain arrays the nodes run one by one, so that operators can
check values. It also runs node by node if an iteration changes the shape or dtype of the state.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Node, Value
from jaxlstm.programs.loop_copies import Loop, Rows
from jaxlstm.programs.node_step import NodeStep, Values
from jaxlstm.programs.operators.registry import Options
from jaxlstm.programs.rows import Row, join, plain
from jaxlstm.programs.unknown_sizes import SIZE_OF, is_among


class _NotScannable(Exception):  # noqa: N818
    """A loop that must run node by node."""


class LoopStep:
    """The copies of the nodes of a loop.

    Attributes:
      steps: the steps of all copies, in order.
    """

    def __init__(self, loop: Loop, steps: Sequence[NodeStep]) -> None:
        self.steps = tuple(steps)
        self._loop = loop
        first = zip(loop.nodes, steps[: len(loop.nodes)], strict=True)
        self._body = [NodeStep(node, step.operator) for node, step in first if node is not None]

    def run(self, values: Values, options: Options) -> None:
        """Run all iterations, and store their results among the values."""
        if not self._run_scan(values, options):
            for step in self.steps:
                step.run(values, options)

    def _run_scan(self, values: Values, options: Options) -> bool:
        """Run the loop as a scan; return False if it must run node by node."""
        loop = self._loop
        if not any(_is_traced(values[name]) for name in loop.inputs):
            return False
        if values.irregular and is_among([values[name] for name in loop.inputs]):
            return False

        def body(state: Any, inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            inner = Values({name: plain(values[name]) for name in loop.invariants} | state | inputs)
            for step in self._body:
                _require_places(step.node, loop, inner)
                step.run(inner, options)
                require_no_size_assertions(inner)
            after = {name: _require_array(inner[end]) for name, end in loop.state.items()}
            return after, {name: _require_array(inner[name]) for name in loop.collected}

        try:
            state = {name: _require_array(plain(values[name])) for name in loop.state}
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
            values.irregular = True
            values.update((own, Row(stacked, index)) for index, own in enumerate(loop.collected[name]))
        return True


def require_no_size_assertions(values: Values) -> None:
    """Raise if the body of a loop or a subgraph asserts a size, which its caller would not see."""
    if any(name.startswith(SIZE_OF) for name in values):
        raise ProgramError(
            "node-failed",
            "jit does not know a size that a loop or branch fixed. Call the program outside of jit",
        )


def _inputs(loop: Loop, values: Values) -> dict[str, Array]:
    """Return the values that move with the iterations, stacked."""
    inputs = {name: _take(plain(values[rows.base]), rows) for name, rows in loop.rows.items()}
    for name, listed in loop.lists.items():
        stacked = join([values[item] for item in listed], 0, stack=True)
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
        taken = moved[np.array(rows.places, np.int32)]
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


def _require_array(value: Any) -> Array:
    if not isinstance(value, Array):
        raise _NotScannable
    return value
