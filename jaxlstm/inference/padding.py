"""``find_padding``: the free axes of a program whose padding its results hide.

The program is traced once, with symbols for the sizes of its free axes. The proof is for all sizes, by the
rules of :mod:`jaxlstm.programs.sizes.flow`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.inference.artifact import shapes_at
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.inputs import as_arguments
from jaxlstm.programs.program import Program
from jaxlstm.programs.sizes.flow import Axes, Flow, Long, State, symbols
from jaxlstm.programs.sizes.guards import UNDECIDED

ARRAY: Any = object()
"""Stands for an array among the leaves of the results, some of which may be None."""

SMALLEST = 2
"""The smallest size that is padded: torch exports a free axis as if it had at least two elements."""

_NOT_SYMBOLIC = (ProgramError, UNDECIDED, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The exceptions of code that needs the value of a size. A symbol also lacks methods of integers."""


@dataclass(frozen=True)
class Padding:
    """The proven properties of a program.

    Attributes:
      along: free axis that may be padded -> long axes of each result.
      independent: each row of the results depends only on the same row of the inputs.
    """

    along: Mapping[str, list[Long]] = field(default_factory=dict)
    independent: bool = False


def find_padding(
    program: Program,
    batch: str | int | None,
    lengths: tuple[str | int, str] | None,
    *,
    sizes: Mapping[str, int] | None = None,
    trusted: bool = False,
) -> Padding | None:
    """Return the axes that may be padded, or None if an operator needs the value of a size.

    Args:
      batch: the first axis of all inputs, or its size if it is fixed; None if they differ.
      lengths: the batch and the time axis of the recurrent layers if they get lengths, or None.
      sizes: None to prove all free axes for all sizes; or the sizes for which the batch is proven.
      trusted: padding cannot reach the results, whose shapes are still needed.
    """
    graph = program.graph
    if any(None in type_.shape for type_ in graph.input_types.values()):
        return Padding()  # the size of an input is an expression of free axes
    free = {name: graph.size_range(name) for name in graph.free_axes if sizes is None or name == batch}
    symbolic = symbols({name: (max(low, SMALLEST), high) for name, (low, high) in free.items()})
    try:
        trace = _Trace(program, {**(sizes or {}), **symbolic}, batch, lengths)
    except _NOT_SYMBOLIC:
        return None
    rows = symbolic.get(str(batch), batch)
    independent = rows == 1 or (rows is not None and trace.has_independent_rows(rows, trusted))
    long_axes = {name: trace.along(name, size, trusted) for name, size in symbolic.items()}
    return Padding({name: long for name, long in long_axes.items() if long is not None}, independent)


class _Trace:
    """A program, traced at sizes of its free axes, of which some are symbols."""

    def __init__(
        self, program: Program, sizes: Mapping[str, Any], batch: Any, lengths: tuple[Any, str] | None
    ) -> None:
        traced = program.with_options(backend="scan", guards=False)
        traced.options = replace(traced.options, opaque_layers=True)
        self.lengths, leaves = lengths, []

        def run(params: Any, valid: Any, *tensors: Any) -> list[jax.Array]:
            arrays, leaves[:] = split_leaves(leaves_of(traced, params, tensors, valid)[0])
            return arrays

        tensors = shapes_at(program, sizes)
        valid = jax.ShapeDtypeStruct((sizes.get(lengths[0], lengths[0]),), jnp.int32) if lengths else None
        self.jaxpr = jax.make_jaxpr(run)(program.params, valid, *tensors)
        arrays = iter(self.jaxpr.out_avals)
        self._arguments = self.jaxpr.in_avals
        self._results = [next(arrays) if other is ARRAY else other for other in leaves]
        length_axes = [Axes(row=0) if lengths[0] == batch else Axes()] if lengths else []
        self._rows: list[Any] = [*(Axes() for _ in program.params), *length_axes, *(Axes(0) for _ in tensors)]

    def along(self, name: str, size: Any, trusted: bool) -> list[Long] | None:
        """Return the long axes of each result if the axis may be padded, or None."""
        flow = Flow(size, is_time=self.lengths is not None and name == self.lengths[1])
        states: list[State] = [
            Axes() if long is not None else None for long in self._longs(flow, self._arguments)
        ]
        long_axes = self._longs(flow, self._results)
        is_proven = trusted or None not in flow.run(self.jaxpr, states)
        return long_axes if is_proven and None not in long_axes else None  # type: ignore[return-value]

    def has_independent_rows(self, size: Any, trusted: bool) -> bool:
        """Return True if each row of the results depends on the same row of the inputs only.

        Args:
          size: the symbol for the size of the batch, or its size if it is fixed.
        """
        flow = Flow(size, rows=True)
        rows, results = self._rows, self.jaxpr.out_avals
        if type(size) is int:
            batches: list[Any] = [[k for k, n in enumerate(leaf.shape) if n == size] for leaf in results]
        else:
            longs = zip(rows, self._longs(flow, self._arguments), strict=True)
            rows = [state if long == ({} if state.row is None else {0: 1}) else None for state, long in longs]
            batches = self._longs(flow, results)
        if any(axes is None or len(axes) > 1 for axes in batches) or None in self._longs(flow, self._results):
            return False
        if trusted:
            return True
        states = zip(flow.run(self.jaxpr, rows), batches, strict=True)
        return all(state is not None and all(map(state.is_apart_along, axes)) for state, axes in states)

    def _longs(self, flow: Flow, leaves: Sequence[Any]) -> list[Long | None]:
        """Return the long axes of arrays, and of numbers, which have none unless they contain the size."""
        return [
            flow.long(leaf.shape) if hasattr(leaf, "shape") else None if flow.contains_size(leaf) else {}
            for leaf in leaves
        ]


def leaves_of(
    program: Program, params: Any, tensors: Sequence[Any], lengths: Any
) -> tuple[list[Any], jax.Array | None]:
    """Run this program, and return the leaves of its results and whether hidden assertions hold."""
    args, kwargs = as_arguments(program.graph, tensors)
    leaves, _, valid = program.results_of(
        program.evaluate(params, *args, **{"seq_lengths": lengths, **kwargs})
    )
    return leaves, valid


def split_leaves(leaves: Sequence[Any]) -> tuple[list[jax.Array], list[Any]]:
    """Return the arrays among the leaves, and the leaves with ARRAY for each array."""
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    return arrays, [ARRAY if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
