"""Kernels in programs for several devices: each device runs the kernel on its own rows of the batch.

XLA cannot partition a custom call, so this module defines the partitioning. The batch axis may be
split, in the same way in all arrays. Every other axis must be whole on each device. If only the batch is
split, no input is communicated, and results that sum over the batch are added up with an all-reduce. XLA
first gathers split weights, and arrays that are split along another axis, such as time.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

import jax
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.extend.core import Primitive
from jax.sharding import Mesh, NamedSharding

from jaxlstm.layer.mesh_types import batch_spec, rows_of

Axes = Sequence[int | None]
"""The batch axis of each array, or None."""

BATCH = "batch"


class Devices(Enum):
    """The devices that a primitive is lowered for.

    In a ``jax.shard_map`` over all axes of the mesh the value is ONE, because the body runs per device.
    """

    ONE = "one"
    SEVERAL = "several"
    UNKNOWN = "unknown"


def devices_of(context: Any) -> Devices:
    """Return the devices of the axis context of a program that is being lowered."""
    manual = getattr(context, "manual_axes", None)
    if manual is not None:
        all_manual = set(manual) == set(context.mesh.axis_names)
        return Devices.ONE if all_manual else Devices.UNKNOWN
    if context.num_devices == 1:
        return Devices.ONE
    return Devices.UNKNOWN if context.abstract_mesh is None else Devices.SEVERAL


def lower_with_mesh(primitive: Primitive) -> None:
    """Make JAX pass the mesh of the program to the lowering rule, which needs it to partition the kernel.

    JAX has no public API for this. If the private name disappears, the rule cannot see the mesh, and programs
    for several devices run the plain function.
    """
    with suppress(ImportError):
        from jax._src.dispatch import prim_requires_devices_during_lowering

        prim_requires_devices_during_lowering.add(primitive)


def over_batch(
    function: Callable[..., list], axes: Axes, result_axes: Axes, ranks: Sequence[int]
) -> Callable[..., list]:
    """Return ``function`` partitioned over the batch: each device runs it on the rows that it holds.

    ``function`` maps arrays to a list of arrays. A result without a batch axis is a sum over the batch.
    ``ranks`` lists the ranks of the arguments, then of the results.
    """
    # XLA calls ``partition`` from a thread that does not see a thread-local jax.enable_x64.
    x64 = jax.config.read("jax_enable_x64")

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
        infer_sharding_from_operands=infer,  # for GSPMD, the older partitioner
        sharding_rule=_rule(axes, result_axes, ranks),
    )
    return partitioned


def _rows(mesh: Mesh, arguments: Sequence[Any], axes: Axes) -> Any:
    """Return the mesh axes that split the batch, or None if they do not divide it evenly."""
    rows = rows_of([argument.sharding for argument in arguments], axes)
    parts = math.prod(mesh.shape[name] for name in (rows if isinstance(rows, tuple) else (rows,)) if name)
    size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
    return rows if size % parts == 0 else None


def _rule(axes: Axes, result_axes: Axes, ranks: Sequence[int]) -> SdyShardingRule:
    """Return the rule for Shardy: the batch axis is one factor of all arrays, every other axis is whole."""
    whole: list[str] = []

    def mapping(index: int, axis: int | None) -> ArrayMapping:
        factors = [BATCH if dim == axis else f"axis{dim}_of_{index}" for dim in range(ranks[index])]
        whole.extend(factor for factor in factors if factor != BATCH)
        return ArrayMapping(*factors)

    mappings = [mapping(index, axis) for index, axis in enumerate([*axes, *result_axes])]
    return SdyShardingRule(
        tuple(mappings[: len(axes)]),
        tuple(mappings[len(axes) :]),
        # Shardy cannot express a reduction of some results if other results keep the batch axis.
        reduction_factors=(BATCH,) if set(result_axes) == {None} else (),
        need_replication_factors=tuple(whole),
    )
