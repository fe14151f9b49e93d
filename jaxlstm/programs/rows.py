"""``Row``: the result of one iteration of a loop, as a row of the results of all iterations."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.graph import Node, Value

_JOINS = {"aten.stack.default": True, "aten.cat.default": False}


class Row(NamedTuple):
    """The value of one iteration, as a row of the values of all iterations."""

    stacked: Array
    place: int

    def array(self) -> Array:
        """Return the value."""
        return jax.lax.index_in_dim(self.stacked, self.place, keepdims=False)


def plain(value: Any) -> Any:
    """Return a row as an array, and any other value unchanged."""
    return value.array() if isinstance(value, Row) else value


def join_rows(node: Node, values: Mapping[str, Any]) -> Array | None:
    """Return the result of a node that stacks or concatenates rows of a loop; None for any other node."""
    items, dim = node.kwargs.get("tensors"), node.kwargs.get("dim", 0)
    if node.op not in _JOINS or not isinstance(items, tuple) or not isinstance(dim, int):
        return None
    found = [values[item.name] for item in items if isinstance(item, Value)]
    if len(found) < len(items) or not any(isinstance(value, Row) for value in found):
        return None
    return join(found, dim, stack=_JOINS[node.op])


def join(items: Sequence[Any], dim: int, *, stack: bool) -> Array | None:
    """Return ``torch.stack`` or ``torch.cat`` of rows and arrays of one dtype and rank, or None."""
    if any(not isinstance(item, Array | Row) for item in items):
        return None
    like = [plain(item) if isinstance(item, Array) else jax.eval_shape(item.array) for item in items]
    rank = like[0].ndim
    if len({(x.dtype, x.ndim, x.shape if stack else ()) for x in like}) > 1 or not (rank or stack):
        return None
    dim = dim % (rank + stack)
    pieces = []
    for run in _runs(items):
        if len(run) == 1:
            array = plain(run[0])
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
