"""A JAX primitive that is a plain function in every respect but one: on some platforms it runs a kernel.

Shapes, derivatives, transposition and every other backend come from the plain function, so that a kernel
answers how fast and never what. ``jax.vmap`` folds the mapped axis into the batch, and where weights are
mapped runs one after the other. In a program for several devices each runs the kernel on its rows of the
batch, by :mod:`jaxlstm.kernels.partition` or inside ``jax.shard_map``. ``jax.export`` gets the plain
function, since a custom call would tie the file to this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxlstm.kernels.partition import over_batch
from jaxlstm.placement import batch_spec, rows_of, varying_alike


class KernelPrimitive:
    """A function ``(*arguments, **static) -> tree`` of arrays, with kernels for some platforms.

    Args:
      name: of the primitive, as it appears in a jaxpr.
      plain: the function in JAX.
      kernels: the same by custom calls, by platform ("cpu", "cuda", "tpu"); none where only a transpose
        has any.
      shapes: the same in ``jax.ShapeDtypeStruct``.
      batch_axes: for each argument the axis of the batch in all its arrays, or None for weights, or a
        tuple of these, or where the argument is a dict, a dict.
      result_batch_axes: for each leaf of the result; None where it is a sum over the batch, and then the
        function is the plain one under ``jax.vmap``.
      insists: the backend, if a program of another platform is an error and not the plain function.
    """

    def __init__(
        self,
        name: str,
        plain: Callable[..., Any],
        kernels: Mapping[str, Callable[..., Any]],
        shapes: Callable[..., Any],
        batch_axes: tuple,
        result_batch_axes: Callable[..., Sequence[int | None]],
        insists: str | None = None,
    ) -> None:
        self.plain, self.shapes = plain, shapes
        self.batch_axes, self.result_batch_axes = batch_axes, result_batch_axes
        self.primitive = primitive = Primitive(name)
        primitive.multiple_results = True
        primitive.def_impl(self._run_at_once)
        primitive.def_abstract_eval(self._abstract)
        ad.primitive_jvps[primitive] = self._jvp
        batching.primitive_batchers[primitive] = self._batch
        mlir.register_lowering(
            primitive,
            partial(self._lower, _refusal(insists, tuple(kernels)))
            if kernels and insists
            else mlir.lower_fun(self._plain_leaves, multiple_results=True),
        )
        for platform, kernel in kernels.items():
            mlir.register_lowering(primitive, partial(self._lower, kernel), platform=platform)
        if kernels:
            _tell_of_mesh(primitive)

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """The tree of results."""
        leaves, tree = jax.tree.flatten(varying_alike(arguments))
        out_tree = jax.tree.structure(self.shapes(*arguments, **static))
        return jax.tree.unflatten(out_tree, self.primitive.bind(*leaves, tree=tree, **static))

    def transposed_by(self, transpose: Callable[..., Any]) -> None:
        """The last argument enters linearly; ``transpose`` gives its cotangents.

        It is called as ``transpose(*other arguments, shapes of the last, cotangents, **static)``.
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
            found = jax.tree.leaves(transpose(*fixed, linear_shapes, cotangents, **static))
            given = jax.tree.leaves(linear, is_leaf=ad.is_undefined_primal)
            found = [
                ct if ad.is_undefined_primal(leaf) else None
                for ct, leaf in zip(found, given, strict=True)
            ]
            return [None] * (len(leaves) - len(found)) + found

        ad.primitive_transposes[self.primitive] = rule

    def _run_at_once(self, *leaves: Any, **static: Any) -> list:
        """Outside ``jax.jit``; compiled even where jit is turned off, since there is no other native form."""
        with jax.disable_jit(False):
            return _compiled(self.primitive, _items(static))(*leaves)

    def _plain_leaves(self, *leaves: Any, tree: Any, **static: Any) -> list:
        return jax.tree.leaves(self.plain(*jax.tree.unflatten(tree, leaves), **static))

    def _abstract(self, *avals: Any, tree: Any, **static: Any) -> list:
        arguments = jax.tree.unflatten(tree, avals)
        shapes = jax.tree.leaves(self.shapes(*arguments, **static))
        return [
            avals[0].update(
                shape=shape.shape, dtype=shape.dtype, weak_type=False, sharding=sharding
            )
            for shape, sharding in zip(
                shapes, self._shardings(arguments, shapes, **static), strict=True
            )
        ]

    def _shardings(self, arguments: Any, shapes: list, **static: Any) -> list:
        """Those that the types of the results say: of the batch as in the arguments, of nothing else."""
        avals = jax.tree.leaves(arguments)
        axes, result_axes = self._axes_of_batch(arguments, **static)
        rows = rows_of([aval.sharding for aval in avals], axes)
        return [
            avals[0].sharding.update(spec=batch_spec(len(shape.shape), axis, rows))
            for shape, axis in zip(shapes, result_axes, strict=True)
        ]

    def _jvp(self, primals: tuple, tangents: tuple, **static: Any) -> tuple:
        varying = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def plain(*values: Any) -> list:
            leaves = list(primals)
            for i, value in zip(varying, values, strict=True):
                leaves[i] = value
            return self._plain_leaves(*leaves, **static)

        return jax.jvp(plain, [primals[i] for i in varying], [tangents[i] for i in varying])

    def _axes_of_batch(self, arguments: Any, **static: Any) -> tuple[Sequence, Sequence]:
        """For each leaf of the arguments and of the results; None where it has none."""
        axes = _axes_of_leaves(arguments, self.batch_axes)
        return axes, self.result_batch_axes(*arguments, **static)

    def _batch(self, leaves: tuple, dims: tuple, *, tree: Any, **static: Any) -> tuple:
        bind = partial(self.primitive.bind, tree=tree, **static)
        axes, out_axes = self._axes_of_batch(jax.tree.unflatten(tree, leaves), **static)
        mapped = [dim is not None for dim in dims]
        size = next(x.shape[d] for x, d, m in zip(leaves, dims, mapped, strict=True) if m)
        if None in out_axes or size == 0:
            plain = partial(self._plain_leaves, tree=tree, **static)
            outs = jax.vmap(plain, in_axes=dims)(*leaves)
            return outs, [0] * len(outs)
        if any(m and axis is None for m, axis in zip(mapped, axes, strict=True)):
            return self._one_by_one(bind, leaves, dims, mapped)
        folded = [
            x if axis is None else _fold(x, dim if m else None, axis, size)
            for x, dim, m, axis in zip(leaves, dims, mapped, axes, strict=True)
        ]
        outs = [_unfold(y, axis, size) for y, axis in zip(bind(*folded), out_axes, strict=True)]
        return outs, out_axes

    @staticmethod
    def _one_by_one(bind: Callable, leaves: tuple, dims: tuple, mapped: list[bool]) -> tuple:
        moved = [jnp.moveaxis(x, d, 0) for x, d, m in zip(leaves, dims, mapped, strict=True) if m]

        def one(values: list) -> list:
            rest = iter(values)
            return bind(*(next(rest) if m else x for x, m in zip(leaves, mapped, strict=True)))

        outs = lax.map(one, moved)
        return outs, [0] * len(outs)

    def _lower(self, kernel: Callable, ctx: Any, *leaves: Any, tree: Any, **static: Any) -> Any:
        devices = _devices(ctx.module_context.axis_context)
        if devices is Devices.UNKNOWN or ctx.module_context.lowering_parameters.for_export:
            kernel, devices = self.plain, Devices.UNKNOWN

        def run(*leaves: Any) -> list:
            return jax.tree.leaves(kernel(*jax.tree.unflatten(tree, leaves), **static))

        if devices is Devices.SEVERAL:
            axes = self._axes_of_batch(jax.tree.unflatten(tree, ctx.avals_in), **static)
            run = over_batch(run, *axes, [aval.ndim for aval in (*ctx.avals_in, *ctx.avals_out)])
        return mlir.lower_fun(run, multiple_results=True)(ctx, *leaves)


def _refusal(backend: str, platforms: tuple[str, ...]) -> Callable:
    """What runs in place of a kernel where there is none and the backend insists on one."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            f"backend={backend!r} has kernels for {' and '.join(platforms)}, and this program is compiled "
            "for another platform; use backend='auto' or 'scan'"
        )

    return refuse


class Devices(Enum):
    """Those of a program: one or, inside ``jax.shard_map``, each on its own; several; or not to be told."""

    ONE = "one"
    SEVERAL = "several"
    UNKNOWN = "unknown"


def _devices(context: Any) -> Devices:
    manual = getattr(context, "manual_axes", None)
    if manual is not None:
        each = set(manual) == set(context.mesh.axis_names)
        return Devices.ONE if each else Devices.UNKNOWN
    if context.num_devices == 1:
        return Devices.ONE
    return Devices.UNKNOWN if context.abstract_mesh is None else Devices.SEVERAL


def _tell_of_mesh(primitive: Primitive) -> None:
    """Have the lowering of a primitive be told the mesh of the program, which its partition is a matter of.

    JAX has no public name for that. Where it has this one no more, :func:`_devices` is not told of several,
    and in a program for them the plain function runs.
    """
    with suppress(ImportError):
        from jax._src.dispatch import prim_requires_devices_during_lowering

        prim_requires_devices_during_lowering.add(primitive)


@lru_cache(maxsize=256)
def _compiled(primitive: Primitive, static: tuple) -> Callable:
    return jax.jit(partial(primitive.bind, **dict(static)))


def _axes_of_leaves(tree: Any, axes: Any) -> list[int | None]:
    if isinstance(axes, dict):
        names = sorted(tree)  # as JAX has their leaves
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


def _fold(x: jax.Array, dim: int | None, axis: int, size: int) -> jax.Array:
    """The mapped axis ``dim``, or a new one, moved in front of the batch axis and merged with it."""
    if dim is None:
        x = jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], size, *x.shape[axis:]))
    else:
        x = jnp.moveaxis(x, dim, axis)
    return x.reshape(*x.shape[:axis], size * x.shape[axis + 1], *x.shape[axis + 2 :])


def _unfold(y: jax.Array, axis: int, size: int) -> jax.Array:
    return y.reshape(*y.shape[:axis], size, y.shape[axis] // size, *y.shape[axis + 1 :])
