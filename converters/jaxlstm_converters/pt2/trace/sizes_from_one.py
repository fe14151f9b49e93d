"""Exports in which a free axis may have any size from 1 on.

torch takes each free axis to have at least two elements. It records no condition that all such sizes meet, so
that a graph may be wrong at 1: ``if x.shape[0] == 1`` leaves no trace in it. Here torch knows only that sizes
are positive, and records every condition that Python code has on them. C++ code, which compares sizes for
strides and contiguity, still takes them to be at least 2: nodes record the user's arguments.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._subclasses import fake_impls
from torch.fx.experimental import _config, symbolic_shapes
from torch.fx.experimental.sym_node import SymNode
from torch.utils._sympy import symbol
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from jaxlstm._shared.own_thread import replaced

_SYMBOL: Any = symbol.make_symbol
_RANGE: Any = symbolic_shapes.ShapeEnv._default_value_range
_DECIDE: Any = SymNode.guard_bool
_SLICE_INDEX: Any = getattr(fake_impls, "_compute_slice_index", None)


@contextlib.contextmanager
def sizes_from_one() -> Iterator[None]:
    """Mark the symbols of sizes in exports of this thread as "nonzero", which follows from "positive".

    A file shows the mark, beside the conditions.

    Raises:
      AttributeError: this version of torch has no such exports.
    """
    with (
        # of this thread
        _config.patch(backed_size_oblivious=True),  # pyright: ignore[reportAttributeAccessIssue]
        replaced(symbolic_shapes, "make_symbol", _symbol),
        replaced(symbolic_shapes.ShapeEnv, "_default_value_range", _range),
        replaced(SymNode, "guard_bool", _decide),
        replaced(fake_impls, "_compute_slice_index", _slice_index),
        _own_shapes(),
    ):
        yield


def _symbol(prefix: Any, number: int, **assumptions: Any) -> Any:
    if _config.backed_size_oblivious and assumptions.get("positive"):
        assumptions["nonzero"] = True
    return _SYMBOL(prefix, number, **assumptions)


def _range(self: Any, *settings: Any, **options: Any) -> Any:
    return ValueRanges(1, int_oo) if _config.backed_size_oblivious else _RANGE(self, *settings, **options)


@functools.wraps(_DECIDE)
def _decide(self: Any, file: str, line: int) -> bool:
    """Return the truth of a condition, which becomes a condition of the graph if it is Python's."""
    if _config.backed_size_oblivious and file.endswith((".h", ".cpp")):
        return self.guard_size_oblivious(file, line)
    return _DECIDE(self, file, line)


def _slice_index(size: Any, index: Any) -> Any:
    """Return a start or end of a slice. A table must have as many rows as a free size takes of it.

    Otherwise torch records no condition, and the slice would have the smaller of both sizes. Where torch does
    not know the sign of an index, its sign at the example becomes a condition.
    """
    is_known = not symbolic_shapes.free_unbacked_symbols([size, index])
    is_free = type(size) is int and isinstance(index, torch.SymInt)
    if is_free and is_known and 0 <= index <= size:
        return index
    found = _SLICE_INDEX(size, index)
    if found is not None or not is_known:
        return found
    from_start = index if index >= 0 else index + size
    return 0 if from_start < 0 else size if from_start > size else from_start


@contextlib.contextmanager
def _own_shapes() -> Iterator[None]:
    """Replace torch's shapes of results that depend on the size of one axis."""
    before = {operator: decomposition_table[operator] for operator in _SHAPES}
    decomposition_table.update(_SHAPES)
    try:
        yield
    finally:
        decomposition_table.update(before)


def _unbind(tensor: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Return the slices of a tensor. torch keeps their axis unless it knows its size."""
    return tuple(tensor.select(dim, place) for place in range(tensor.shape[dim]))


_SQUEEZE: Any = decomposition_table[torch.ops.aten.squeeze.dim]


def _squeeze(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Return a tensor without an axis of size 1. torch keeps one if it does not know the size."""
    size: Any = tensor.shape[dim] if tensor.ndim else 1
    is_expression = isinstance(size, torch.SymInt) and not symbolic_shapes.free_unbacked_symbols(size)
    if is_expression and size.node.hint == 1 and size == 1:
        return tensor.select(dim, 0)
    return _SQUEEZE(tensor, dim)


_SHAPES: Any = {torch.ops.aten.unbind.int: _unbind, torch.ops.aten.squeeze.dim: _squeeze}
