"""``results_along``: whether the results of a program hide the padding of a free axis.

The program is traced at two sizes of the axis, and compared by the rules of
:mod:`jaxlstm.programs.long_axes`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.inference.program_artifact import as_arguments, shapes_at
from jaxlstm.inference.random_inputs import clipped
from jaxlstm.programs import tree
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.long_axes import PRIMES, Comparison, Long
from jaxlstm.programs.program import Program

ARRAY: Any = object()
"""Stands for an array among the leaves of the results, some of which may be None."""


def results_along(
    program: Program, axis: str, lengths: tuple[str | int, str] | None, *, rows: bool, trusted: bool = False
) -> list[Long] | None:
    """Return the long axes of each result if the axis may be padded, or None.

    Args:
      lengths: the batch and the time axis of the recurrent layers if they get lengths, or None.
      rows: also require that the elements of the axis do not depend on each other, and not on their position.
      trusted: the operations keep the invariant, so that only the shapes are compared.
    """
    if any(None in type_.shape for type_ in program.graph.input_types.values()):
        return None  # the size of an input is an expression of free axes
    for pair in PRIMES:
        traced = [_trace(program, axis, size, pair[1] + 2, lengths) for size in pair]
        if None not in traced:
            comparison = Comparison(pair, is_time=bool(lengths) and axis == lengths[1], rows=rows)  # type: ignore[index]
            (first, first_static), (second, second_static) = traced  # type: ignore[misc]
            if first_static != second_static or not (trusted or comparison.closed(first, second)):
                if comparison.differs:
                    continue  # operators may choose their form by size
                return None
            arrays = itertools.starmap(
                comparison.long, zip(first.jaxpr.outvars, second.jaxpr.outvars, strict=True)
            )
            along = [next(arrays) if other is ARRAY else {} for other in first_static[0]]
            return None if None in along else along  # type: ignore[return-value]
    return None


def leaves_of(program: Program, params: Any, tensors: Sequence[Any], lengths: Any) -> list[Any]:
    """Run a program and return the leaves of its results."""
    args, kwargs = as_arguments(program, tensors)
    results = program(params, *args, seq_lengths=lengths, **kwargs)
    return tree.flatten(program.graph.out_tree, results, "results")


def split_leaves(leaves: Sequence[Any]) -> tuple[list[jax.Array], list[Any]]:
    """Return the arrays among the leaves, and the leaves with ARRAY for each array."""
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    return arrays, [ARRAY if isinstance(leaf, jax.Array) else leaf for leaf in leaves]


def _trace(program: Program, axis: str, size: int, other: int, lengths: Any) -> Any:
    """Return the traced program and its other results than arrays, or None if it refuses the sizes."""
    graph, static = program.graph, []
    sizes = {name: clipped(graph, name, other) for name in graph.free_axes} | {axis: size}
    traced = program.with_options(backend="scan")
    traced.options = replace(traced.options, opaque_layers=True)

    def run(params: Any, valid: Any, *tensors: Any) -> list[jax.Array]:
        arrays, others = split_leaves(leaves_of(traced, params, tensors, valid))
        static.append(others)
        return arrays

    valid = None
    if lengths:
        rows = sizes.get(lengths[0], lengths[0])
        valid = jax.ShapeDtypeStruct((rows,), jnp.int32)
    try:
        return jax.make_jaxpr(run)(program.params, valid, *shapes_at(program, sizes)), static
    except ProgramError:  # the program refuses these sizes
        return None
