"""Arrays that lie differently over the devices of a mesh, made alike where their types say how they lie.

Two kinds of type say it. Inside ``jax.shard_map`` a type names the axes of the mesh over which a value
varies; weights are often the same on each device where inputs are not. And a mesh with axes of the explicit
kind, as ``jax.make_mesh`` makes them, puts the sharding of each array into its type. A loop wants a state of
one type before its first step and after it, and a kernel wants arguments of one kind. With any other mesh the
compiler sees to all this, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec


def varying_alike(tree: Any, like: Any = ()) -> Any:
    """The arrays of ``tree``, each varying over all axes over which one of them or of ``like`` varies."""
    axes = frozenset().union(*map(_axes, jax.tree.leaves((tree, like))))

    def vary(x: Any) -> Any:
        missing = tuple(sorted(axes - _axes(x), key=str))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def split_alike(trees: Sequence[Any], batch_axes: Sequence[int | None]) -> tuple:
    """Trees of arrays, split over the axes of the mesh that split the batch of one of them, and else whole.

    Args:
      batch_axes: where each tree's arrays have the batch; None for weights, which have none.
    """
    leaves, tree = jax.tree.flatten(tuple(trees))
    axes = [a for t, a in zip(trees, batch_axes, strict=True) for _ in jax.tree.leaves(t)]
    mesh = next((m for m in map(_mesh, leaves) if getattr(m, "explicit_axes", ())), None)
    if mesh is None:
        return tuple(trees)
    rows = rows_of([jax.typeof(x).sharding for x in leaves], axes)
    split = [
        jax.sharding.reshard(x, NamedSharding(mesh, batch_spec(x.ndim, axis, rows)))
        for x, axis in zip(leaves, axes, strict=True)
    ]
    return jax.tree.unflatten(tree, split)


def whole_beside(x: Any, rank: int) -> NamedSharding | None:
    """That of an array that is whole on each device of the mesh of ``x``, where types say so."""
    sharding = jax.typeof(x).sharding
    return (
        sharding.update(spec=PartitionSpec(*[None] * rank)) if sharding.mesh.explicit_axes else None
    )


def rows_of(shardings: Sequence[Any], batch_axes: Sequence[int | None]) -> Any:
    """What splits the batch in the first array whose batch is split: a name, several or None.

    Args:
      shardings: ``jax.sharding.NamedSharding``; None where it is not known yet.
    """
    pairs = zip(shardings, batch_axes, strict=True)
    found = (s.spec[axis] for s, axis in pairs if s is not None and axis is not None)
    return next((rows for rows in found if rows is not None), None)


def batch_spec(rank: int, batch_axis: int | None, rows: Any) -> PartitionSpec:
    """An array whose batch is split as ``rows`` says, and nothing else."""
    return PartitionSpec(*(rows if axis == batch_axis else None for axis in range(rank)))


def _axes(x: Any) -> frozenset:
    aval = jax.typeof(x)
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return getattr(aval, "vma", frozenset())  # before jax 0.10.1


def _mesh(x: Any) -> Any:
    sharding = jax.typeof(x).sharding if isinstance(x, Tracer) else x.sharding
    return getattr(sharding, "mesh", None)
