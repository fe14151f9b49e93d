"""A kernel in a program for several devices: each runs it on its own rows of the batch.

XLA cannot share out a call that it cannot look into, so it is told how: the axis of the batch may be split,
in all arrays alike, and every other axis has to be whole on each device. So nothing is sent where the batch
alone is split; a result that sums over the batch is added up by an all-reduce, and an array that comes split
along another axis, such as time, or weights that do, XLA gathers first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    SdyShardingRule,
    custom_partitioning,
)
from jax.sharding import Mesh, NamedSharding

from jaxlstm.placement import batch_spec, rows_of

Axes = Sequence[int | None]  # of the batch, for each array
BATCH = "batch"


def over_batch(
    function: Callable[..., list], axes: Axes, result_axes: Axes, ranks: Sequence[int]
) -> Callable[..., list]:
    """``function``, of arrays to a list of arrays, run by each device on the rows that it has.

    Args:
      axes: of the batch, for each argument; None where there is none.
      result_axes: the same for each result; None where it is a sum over the batch.
      ranks: of the arguments, then of the results.
    """
    x64 = jax.config.read("jax_enable_x64")  # XLA calls back from a thread that does not know

    def split(mesh: Mesh, rows: Any, ranks: Sequence[int], axes: Axes) -> list[NamedSharding]:
        pairs = zip(ranks, axes, strict=True)
        return [NamedSharding(mesh, batch_spec(rank, axis, rows)) for rank, axis in pairs]

    def infer(mesh: Mesh, arguments: Any, results: Any) -> list[NamedSharding]:
        return split(mesh, _rows(mesh, arguments, axes), ranks[len(axes) :], result_axes)

    def partition(mesh: Mesh, arguments: Any, results: Any) -> tuple:
        rows = _rows(mesh, arguments, axes)

        def on_each_device(*shards: jax.Array) -> list:
            with jax.enable_x64(x64):
                outs = zip(function(*shards), result_axes, strict=True)
            return [jax.lax.psum(out, rows) if axis is None and rows else out for out, axis in outs]

        arguments_split = tuple(split(mesh, rows, ranks[: len(axes)], axes))
        return mesh, on_each_device, infer(mesh, arguments, results), arguments_split

    partitioned = custom_partitioning(function)
    partitioned.def_partition(
        partition,
        infer_sharding_from_operands=infer,  # where the older partitioner, GSPMD, is chosen
        sharding_rule=_rule(axes, result_axes, ranks),
    )
    return partitioned


def _rows(mesh: Mesh, arguments: Sequence[Any], axes: Axes) -> Any:
    """The axes of the mesh that split the batch; None where they would not divide it."""
    rows = rows_of([argument.sharding for argument in arguments], axes)
    parts = math.prod(
        mesh.shape[name] for name in (rows if isinstance(rows, tuple) else (rows,)) if name
    )
    size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
    return rows if size % parts == 0 else None


def _rule(axes: Axes, result_axes: Axes, ranks: Sequence[int]) -> SdyShardingRule:
    """For Shardy: the axis of the batch is one factor of all arrays; every other axis is whole."""
    whole: list[str] = []

    def mapping(index: int, axis: int | None) -> ArrayMapping:
        factors = [BATCH if dim == axis else f"axis{dim}_of_{index}" for dim in range(ranks[index])]
        whole.extend(factor for factor in factors if factor != BATCH)
        return ArrayMapping(*factors)

    mappings = [mapping(index, axis) for index, axis in enumerate([*axes, *result_axes])]
    return SdyShardingRule(
        tuple(mappings[: len(axes)]),
        tuple(mappings[len(axes) :]),
        # where some results keep the axis, Shardy has no name for those that sum over it
        reduction_factors=(BATCH,) if set(result_axes) == {None} else (),
        need_replication_factors=tuple(whole),
    )
