"""Placement of arrays on the devices of a mesh, where their types carry it.

The type of an array carries its placement in two cases. Inside ``jax.shard_map``, a type names the mesh
axes over which the value varies; inputs usually vary over an axis, and weights do not. On a mesh with
explicit axes, the type of an array contains its sharding. A loop needs the same type of state before and
after each step, and a kernel needs matching arguments, so these functions make the types match. On any
other mesh the compiler places the arrays, and the functions return their arguments unchanged.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec


def varying_alike(tree: Any, like: Any = ()) -> Any:
    """Make each array of ``tree`` vary over every mesh axis over which an array of either tree varies."""
    axes = frozenset().union(*map(_varying_axes, jax.tree.leaves((tree, like))))

    def vary(x: Any) -> Any:
        missing = tuple(sorted(axes - _varying_axes(x), key=str))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def split_alike(trees: Sequence[Any], batch_axes: Sequence[int | None]) -> tuple:
    """Reshard trees of arrays so that all split the batch as the first that does, and no other axis.

    ``batch_axes`` holds the batch axis of each tree's arrays; None for weights, which have none.
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
    """Return the sharding of an unsplit array on the mesh of ``x``; None if types do not carry it."""
    sharding = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return None
    return sharding.update(spec=PartitionSpec(*[None] * rank))


def rows_of(shardings: Sequence[Any], batch_axes: Sequence[int | None]) -> Any:
    """Return the mesh axes that split the batch in the first array whose batch is split, else None.

    A sharding is None if it is unknown, and a batch axis is None if the array has none.
    """
    pairs = zip(shardings, batch_axes, strict=True)
    specs = (s.spec[axis] for s, axis in pairs if s is not None and axis is not None)
    return next((rows for rows in specs if rows is not None), None)


def batch_spec(rank: int, batch_axis: int | None, rows: Any) -> PartitionSpec:
    """Return the spec of an array that splits its batch over the mesh axes ``rows``, and no other axis."""
    return PartitionSpec(*(rows if axis == batch_axis else None for axis in range(rank)))


def _varying_axes(x: Any) -> frozenset:
    aval = jax.typeof(x)
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return getattr(aval, "vma", frozenset())  # before JAX 0.10.1


def _mesh(x: Any) -> Any:
    sharding = jax.typeof(x).sharding if isinstance(x, Tracer) else x.sharding
    return getattr(sharding, "mesh", None)
