"""JAX primitives that run a kernel on some platforms and a plain function on all others.

The plain function defines the results, the derivative and every other platform of the primitive, so a
kernel changes only speed.

- ``jax.vmap`` folds the mapped axis into the batch. Calls with mapped weights run one after the other.
- In a program for several devices, each device runs the kernel on its own rows of the batch, either through
  :mod:`jaxlstm.kernels.partition` or inside ``jax.shard_map``.
- ``jax.export`` gets the plain function, because a custom call would tie the exported file to this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxlstm.kernels.lowering import Devices, devices_of, lower_with_mesh, unsupported
from jaxlstm.kernels.partition import over_batch
from jaxlstm.kernels.vmap import vmapped
from jaxlstm.layer.mesh_types import batch_spec, rows_of, varying_alike


class KernelPrimitive:
    """A function ``(*arguments, **static)`` to a tree of arrays, with kernels for some platforms.

    Args:
      name: name of the primitive, as it appears in a jaxpr.
      plain: the function, in JAX.
      shapes: the function, from and to ``jax.ShapeDtypeStruct``.
      kernels: the function as a kernel, by platform ("cpu", "cuda", "tpu"). Empty if only the transpose has
        kernels.
      batch_axes: the batch axis of each argument: an int for all arrays of the argument, None for weights, or
        a tuple or a dict of these that matches the argument.
      result_batch_axes: ``(*arguments, **static)`` to the batch axis of each leaf of the result. None marks a
        sum over the batch; ``jax.vmap`` then runs the plain function.
      required_by: name of the backend that requires a kernel. Lowering for a platform without a kernel then
        raises an error instead of using the plain function.
    """

    def __init__(
        self,
        name: str,
        plain: Callable[..., Any],
        shapes: Callable[..., Any],
        *,
        kernels: Mapping[str, Callable[..., Any]] | None = None,
        batch_axes: tuple,
        result_batch_axes: Callable[..., Sequence[int | None]],
        required_by: str | None = None,
    ) -> None:
        kernels = kernels or {}
        self.plain, self.shapes = plain, shapes
        self.batch_axes, self.result_batch_axes = batch_axes, result_batch_axes
        self.primitive = primitive = Primitive(name)
        primitive.multiple_results = True
        primitive.def_impl(self._run_eagerly)
        primitive.def_abstract_eval(self._abstract)
        ad.primitive_jvps[primitive] = self._jvp
        batching.primitive_batchers[primitive] = self._batch
        mlir.register_lowering(
            primitive,
            partial(self._lower, unsupported(required_by, tuple(kernels)))
            if kernels and required_by
            else mlir.lower_fun(self._plain_leaves, multiple_results=True),
        )
        for platform, kernel in kernels.items():
            mlir.register_lowering(primitive, partial(self._lower, kernel), platform=platform)
        if kernels:
            lower_with_mesh(primitive)

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """Bind the primitive and return the tree of results."""
        leaves, tree = jax.tree.flatten(varying_alike(arguments))
        out_tree = jax.tree.structure(self.shapes(*arguments, **static))
        return jax.tree.unflatten(out_tree, self.primitive.bind(*leaves, tree=tree, **static))

    def set_transpose(self, transpose: Callable[..., Any]) -> None:
        """Define the transpose with respect to the last argument, in which the function must be linear.

        Args:
          transpose: ``(*other arguments, shapes of the last argument, cotangents of the result, **static)``
            to the cotangents of the last argument.
        """

        def rule(cotangents: list, *leaves: Any, tree: Any, **static: Any) -> list:
            *fixed, linear = jax.tree.unflatten(tree, leaves)
            linear_shapes = jax.tree.map(_shape, linear, is_leaf=ad.is_undefined_primal)
            out_shapes = self.shapes(*fixed, linear_shapes, **static)
            cotangents = [
                jnp.zeros(shape.shape, shape.dtype) if isinstance(ct, ad.Zero) else ct
                for ct, shape in zip(cotangents, jax.tree.leaves(out_shapes), strict=True)
            ]
            cotangents = varying_alike(cotangents, fixed)
            cotangents = jax.tree.unflatten(jax.tree.structure(out_shapes), cotangents)
            results = jax.tree.leaves(transpose(*fixed, linear_shapes, cotangents, **static))
            primals = jax.tree.leaves(linear, is_leaf=ad.is_undefined_primal)
            results = [
                ct if ad.is_undefined_primal(primal) else None
                for ct, primal in zip(results, primals, strict=True)
            ]
            return [None] * (len(leaves) - len(results)) + results

        ad.primitive_transposes[self.primitive] = rule

    def _run_eagerly(self, *leaves: Any, **static: Any) -> list:
        """Run outside ``jax.jit``. A kernel exists only in compiled form, so ``disable_jit`` is ignored."""
        with jax.disable_jit(False):
            return _compiled(self.primitive, _items(static))(*leaves)

    def _plain_leaves(self, *leaves: Any, tree: Any, **static: Any) -> list:
        return jax.tree.leaves(self.plain(*jax.tree.unflatten(tree, leaves), **static))

    def _abstract(self, *avals: Any, tree: Any, **static: Any) -> list:
        arguments = jax.tree.unflatten(tree, avals)
        shapes = jax.tree.leaves(self.shapes(*arguments, **static))
        return [
            avals[0].update(shape=shape.shape, dtype=shape.dtype, weak_type=False, sharding=sharding)
            for shape, sharding in zip(shapes, self._shardings(arguments, shapes, **static), strict=True)
        ]

    def _shardings(self, arguments: Any, shapes: list, **static: Any) -> list:
        """Return the shardings of the results: the batch split as in the arguments, other axes whole."""
        avals = jax.tree.leaves(arguments)
        axes, result_axes = self._leaf_batch_axes(arguments, **static)
        rows = rows_of([aval.sharding for aval in avals], axes)
        return [
            avals[0].sharding.update(spec=batch_spec(len(shape.shape), axis, rows))
            for shape, axis in zip(shapes, result_axes, strict=True)
        ]

    def _jvp(self, primals: tuple, tangents: tuple, **static: Any) -> tuple:
        nonzero = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def plain(*values: Any) -> list:
            leaves = list(primals)
            for i, value in zip(nonzero, values, strict=True):
                leaves[i] = value
            return self._plain_leaves(*leaves, **static)

        return jax.jvp(plain, [primals[i] for i in nonzero], [tangents[i] for i in nonzero])

    def _leaf_batch_axes(self, arguments: Any, **static: Any) -> tuple[Sequence, Sequence]:
        """Return the batch axis, or None, of each leaf of the arguments and of the results."""
        axes = _axes_of_leaves(arguments, self.batch_axes)
        return axes, self.result_batch_axes(*arguments, **static)

    def _batch(self, leaves: tuple, dims: tuple, *, tree: Any, **static: Any) -> tuple:
        bind = partial(self.primitive.bind, tree=tree, **static)
        plain = partial(self._plain_leaves, tree=tree, **static)
        batch_axes = self._leaf_batch_axes(jax.tree.unflatten(tree, leaves), **static)
        return vmapped(bind, plain, leaves, dims, *batch_axes)

    def _lower(self, kernel: Callable, ctx: Any, *leaves: Any, tree: Any, **static: Any) -> Any:
        devices = devices_of(ctx.module_context.axis_context)
        if devices is Devices.UNKNOWN or ctx.module_context.lowering_parameters.for_export:
            kernel, devices = self.plain, Devices.UNKNOWN

        def run(*leaves: Any) -> list:
            return jax.tree.leaves(kernel(*jax.tree.unflatten(tree, leaves), **static))

        if devices is Devices.SEVERAL:
            axes = self._leaf_batch_axes(jax.tree.unflatten(tree, ctx.avals_in), **static)
            run = over_batch(run, *axes, [aval.ndim for aval in (*ctx.avals_in, *ctx.avals_out)])
        return mlir.lower_fun(run, multiple_results=True)(ctx, *leaves)


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


def _items(static: dict) -> tuple:
    return tuple(sorted(static.items()))


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    aval = x.aval if ad.is_undefined_primal(x) else x
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
