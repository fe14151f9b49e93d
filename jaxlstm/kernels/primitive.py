"""JAX primitives that run a kernel on one platform and the plain function of an operation on all others.

The plain function defines the results, the derivative and every other platform of the primitive, so a
kernel changes only speed.

- ``jax.vmap`` folds the mapped axis into the batch. Calls with mapped weights run one after the other.
- In a program for several devices, each device runs the kernel on its own rows of the batch, either through
  :mod:`jaxlstm.kernels.partition` or inside ``jax.shard_map``.
- ``jax.export`` gets the plain function, because a custom call would tie the exported file to this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxlstm.kernels.operations import KernelOperation
from jaxlstm.kernels.partition import Axes, Devices, devices_of, lower_with_mesh, over_batch
from jaxlstm.layer.mesh_types import batch_spec, rows_of, varying_alike


class KernelPrimitive:
    """An :class:`KernelOperation` as a JAX primitive, with a kernel for a platform.

    Args:
      prefix: the first part of the primitive's name, as it appears in a jaxpr.
      platform: JAX's name of the kernel's platform.
      kernel: the kernel, see :meth:`KernelOperation.kernel`. None if only the transpose has one.
      transpose: the primitive of the operation's transpose, if the operation has one.
      required_by: name of the backend that requires the kernel. Lowering for another platform then raises an
        error instead of using the plain function.
    """

    def __init__(
        self,
        prefix: str,
        operation: KernelOperation,
        platform: str,
        kernel: Callable[..., dict[str, Any]] | None,
        transpose: KernelPrimitive | None = None,
        *,
        required_by: str | None = None,
    ) -> None:
        self.operation, self.transpose = operation, transpose
        self.primitive = primitive = Primitive(f"{prefix}_{operation.name}")
        primitive.multiple_results = True
        primitive.def_impl(self._evaluate)
        primitive.def_abstract_eval(self._abstract)
        ad.primitive_jvps[primitive] = self._jvp
        batching.primitive_batchers[primitive] = self._batch
        if transpose is not None:
            ad.primitive_transposes[primitive] = self._transpose
        elsewhere = mlir.lower_fun(self._plain_leaves, multiple_results=True)
        if kernel is not None:
            mlir.register_lowering(
                primitive, partial(self._lower, operation.kernel(kernel)), platform=platform
            )
            if required_by is not None:
                elsewhere = partial(self._lower, _unsupported(required_by, platform))
            lower_with_mesh(primitive)
        mlir.register_lowering(primitive, elsewhere)

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """Bind the primitive and return the tree of results."""
        leaves, tree = jax.tree.flatten(varying_alike(arguments))
        _, out_tree = self.operation.result_types(*arguments, **static)
        return jax.tree.unflatten(out_tree, self.primitive.bind(*leaves, tree=tree, **static))

    def _transpose(self, cotangents: list, *leaves: Any, tree: Any, **static: Any) -> list:
        """Transpose with respect to the last argument, in which the operation is linear."""
        assert self.transpose is not None
        assert self.operation.static_of_transpose is not None
        *fixed, linear = jax.tree.unflatten(tree, leaves)
        linear = jax.tree.map(
            lambda x: x.aval if ad.is_undefined_primal(x) else x, linear, is_leaf=ad.is_undefined_primal
        )
        types, out_tree = self.operation.result_types(*fixed, linear, **static)
        cotangents = [
            jnp.zeros(t.shape, t.dtype) if isinstance(ct, ad.Zero) else ct
            for ct, t in zip(cotangents, types, strict=True)
        ]
        cotangents = jax.tree.unflatten(out_tree, varying_alike(cotangents, fixed))
        more = self.operation.static_of_transpose(linear)
        results = jax.tree.leaves(self.transpose(*fixed, cotangents, **static, **more))
        primals = leaves[len(leaves) - len(results) :]
        results = [
            ct if ad.is_undefined_primal(primal) else None
            for ct, primal in zip(results, primals, strict=True)
        ]
        return [None] * (len(leaves) - len(results)) + results

    def _evaluate(self, *leaves: Any, **static: Any) -> list:
        """Evaluate outside ``jax.jit``, where ``disable_jit`` has no effect: kernels are always compiled."""
        with jax.disable_jit(False):
            return _compiled(self.primitive, tuple(sorted(static.items())))(*leaves)

    def _plain_leaves(self, *leaves: Any, tree: Any, **static: Any) -> list:
        return jax.tree.leaves(self.operation.plain(*jax.tree.unflatten(tree, leaves), **static))

    def _abstract(self, *avals: Any, tree: Any, **static: Any) -> list:
        """Return the avals of the results: the batch split as in the arguments, other axes whole."""
        types, axes = self._types_and_axes(avals, tree, **static)
        rows = rows_of([aval.sharding for aval in avals], axes)
        return [
            avals[0].update(
                shape=t.shape,
                dtype=t.dtype,
                weak_type=False,
                sharding=avals[0].sharding.update(spec=batch_spec(len(t.shape), t.batch_axis, rows)),
            )
            for t in types
        ]

    def _jvp(self, primals: tuple, tangents: tuple, **static: Any) -> tuple:
        nonzero = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def plain(*values: Any) -> list:
            leaves = list(primals)
            for i, value in zip(nonzero, values, strict=True):
                leaves[i] = value
            return self._plain_leaves(*leaves, **static)

        return jax.jvp(plain, [primals[i] for i in nonzero], [tangents[i] for i in nonzero])

    def _types_and_axes(self, leaves: Any, tree: Any, **static: Any) -> tuple[list, list]:
        """Return the type of each leaf of the results, and the batch axis of each leaf of the arguments."""
        arguments = jax.tree.unflatten(tree, leaves)
        types, _ = self.operation.result_types(*arguments, **static)
        return types, _axes_of_leaves(arguments, self.operation.batch_axes)

    def _batch(self, leaves: tuple, dims: tuple, *, tree: Any, **static: Any) -> tuple:
        bind = partial(self.primitive.bind, tree=tree, **static)
        plain = partial(self._plain_leaves, tree=tree, **static)
        types, axes = self._types_and_axes(leaves, tree, **static)
        return vmapped(bind, plain, leaves, dims, axes, [t.batch_axis for t in types])

    def _lower(self, function: Callable, ctx: Any, *leaves: Any, tree: Any, **static: Any) -> Any:
        devices = devices_of(ctx.module_context.axis_context)
        if devices is Devices.UNKNOWN or ctx.module_context.lowering_parameters.for_export:
            function, devices = self.operation.plain, Devices.UNKNOWN

        def of_leaves(*leaves: Any) -> list:
            return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves), **static))

        if devices is Devices.SEVERAL:
            types, axes = self._types_and_axes(ctx.avals_in, tree, **static)
            ranks = [aval.ndim for aval in (*ctx.avals_in, *ctx.avals_out)]
            of_leaves = over_batch(of_leaves, axes, [t.batch_axis for t in types], ranks)
        return mlir.lower_fun(of_leaves, multiple_results=True)(ctx, *leaves)


def _unsupported(backend: str, platform: str) -> Callable:
    """Return a stand-in for the kernel of ``platform`` on all others; it raises an error."""

    def raise_error(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            f"backend={backend!r} has kernels for {platform}, but this program is compiled "
            "for another platform; use backend='auto' or 'scan'"
        )

    return raise_error


@lru_cache(maxsize=256)
def _compiled(primitive: Primitive, static: tuple) -> Callable:
    return jax.jit(partial(primitive.bind, **dict(static)))


def _axes_of_leaves(tree: Any, axes: Any) -> list[int | None]:
    if isinstance(axes, dict):
        names = sorted(tree)  # the order in which JAX flattens a dict
        tree, axes = [tree[name] for name in names], tuple(axes[name] for name in names)
    if isinstance(axes, tuple):
        pairs = zip(tree, axes, strict=True)
        return [axis for part in pairs for axis in _axes_of_leaves(*part)]
    return [axes] * len(jax.tree.leaves(tree))


def vmapped(
    bind: Callable[..., list],
    plain: Callable[..., list],
    arrays: Sequence[jax.Array],
    mapped_axes: Axes,
    batch_axes: Axes,
    result_batch_axes: Axes,
) -> tuple[list, Axes]:
    """Return the results of a primitive under ``jax.vmap``, and the mapped axis of each."""
    size = next(x.shape[d] for x, d in zip(arrays, mapped_axes, strict=True) if d is not None)
    result_axes = [axis for axis in result_batch_axes if axis is not None]
    if len(result_axes) < len(result_batch_axes) or size == 0:
        results = jax.vmap(plain, in_axes=tuple(mapped_axes))(*arrays)
        return results, [0] * len(results)
    if any(d is not None and axis is None for d, axis in zip(mapped_axes, batch_axes, strict=True)):
        results = _one_by_one(bind, arrays, mapped_axes)
        return results, [0] * len(results)
    folded = [
        x if axis is None else _fold(x, d, axis, size)
        for x, d, axis in zip(arrays, mapped_axes, batch_axes, strict=True)
    ]
    results = zip(bind(*folded), result_axes, strict=True)
    return [_unfold(y, axis, size) for y, axis in results], result_axes


def _one_by_one(bind: Callable[..., list], arrays: Sequence[jax.Array], mapped_axes: Axes) -> list:
    pairs = list(zip(arrays, mapped_axes, strict=True))

    def one(values: list) -> list:
        rest = iter(values)
        return bind(*(x if d is None else next(rest) for x, d in pairs))

    return lax.map(one, [jnp.moveaxis(x, d, 0) for x, d in pairs if d is not None])


def _fold(x: jax.Array, dim: int | None, axis: int, size: int) -> jax.Array:
    """Move the mapped axis ``dim``, or a new one, in front of the batch axis and merge the two."""
    if dim is None:
        x = jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], size, *x.shape[axis:]))
    else:
        x = jnp.moveaxis(x, dim, axis)
    return x.reshape(*x.shape[:axis], size * x.shape[axis + 1], *x.shape[axis + 2 :])


def _unfold(y: jax.Array, axis: int, size: int) -> jax.Array:
    return y.reshape(*y.shape[:axis], size, y.shape[axis] // size, *y.shape[axis + 1 :])
