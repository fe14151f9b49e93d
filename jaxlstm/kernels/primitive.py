"""A JAX primitive that is a plain function in every respect but one: on some platforms it runs a kernel.

Shapes, derivatives, transposition and every other backend come from the plain function, so that a kernel
answers how fast and never what. ``jax.vmap`` folds the mapped axis into the batch, and where weights are
mapped runs one after the other. XLA cannot share out what it cannot look into, so a program for several
devices gets the plain function, of which a sharded batch stays sharded; the native one runs inside
``jax.shard_map(..., check_vma=False)``. ``jax.export`` gets the plain function too, since a custom call would
tie the file to this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class Kernel:
    """A function ``(*arguments, **static) -> tree`` of arrays, with kernels for some platforms.

    Args:
      name: of the primitive, as it appears in a jaxpr.
      plain: the function in JAX.
      kernels: the same by custom calls, by platform ("cpu", "cuda", "tpu"); none where only a transpose
        has any.
      shapes: the same in ``jax.ShapeDtypeStruct``.
      batch_axes: for each argument the axis of the batch in all its arrays, or None for weights, or a
        tuple of these.
      result_batch_axes: for each leaf of the result. Where the result is a sum over the batch there is none;
        the function is then the plain one under ``jax.vmap``.
      insists: the backend, if a program for one device of another platform is an error and not the plain
        function.
    """

    def __init__(
        self,
        name: str,
        plain: Callable[..., Any],
        kernels: Mapping[str, Callable[..., Any]],
        shapes: Callable[..., Any],
        batch_axes: tuple | None = None,
        result_batch_axes: Callable[..., list[int]] | None = None,
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
        elsewhere = plain if insists is None else _refusal(insists, tuple(kernels))
        mlir.register_lowering(primitive, partial(self._lower, elsewhere))
        for platform, kernel in kernels.items():
            mlir.register_lowering(primitive, partial(self._lower, kernel), platform=platform)

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """The tree of results."""
        leaves, tree = jax.tree.flatten(arguments)
        if any(map(_varying, leaves)):
            return self.plain(
                *arguments, **static
            )  # what varies over a mesh, only JAX's own rules follow
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
        shapes = jax.tree.leaves(self.shapes(*jax.tree.unflatten(tree, avals), **static))
        return [ShapedArray(shape.shape, shape.dtype) for shape in shapes]

    def _jvp(self, primals: tuple, tangents: tuple, **static: Any) -> tuple:
        varying = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def plain(*values: Any) -> list:
            leaves = list(primals)
            for i, value in zip(varying, values, strict=True):
                leaves[i] = value
            return self._plain_leaves(*leaves, **static)

        return jax.jvp(plain, [primals[i] for i in varying], [tangents[i] for i in varying])

    def _leaf_axes(self, tree: Any) -> list[int | None]:
        arguments = jax.tree.unflatten(tree, range(tree.num_leaves))
        return _axes_of_leaves(arguments, self.batch_axes)

    def _batch(self, leaves: tuple, dims: tuple, *, tree: Any, **static: Any) -> tuple:
        bind = partial(self.primitive.bind, tree=tree, **static)
        if self.result_batch_axes is None:
            plain = partial(self._plain_leaves, tree=tree, **static)
            outs = jax.vmap(plain, in_axes=dims)(*leaves)
            return outs, [0] * len(outs)
        axes = self._leaf_axes(tree)
        mapped = [dim is not None for dim in dims]
        size = next(x.shape[d] for x, d, m in zip(leaves, dims, mapped, strict=True) if m)
        if any(m and axis is None for m, axis in zip(mapped, axes, strict=True)):
            return self._one_by_one(bind, leaves, dims, mapped)
        folded = [
            x if axis is None else _fold(x, dim if m else None, axis, size)
            for x, dim, m, axis in zip(leaves, dims, mapped, axes, strict=True)
        ]
        out_axes = self.result_batch_axes(*jax.tree.unflatten(tree, leaves), **static)
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

    def _lower(self, kernel: Callable, ctx: Any, *leaves: Any, **static: Any) -> Any:
        exported = ctx.module_context.lowering_parameters.for_export
        if exported or not _alone(ctx.module_context.axis_context):
            kernel = self.plain

        def run(*leaves: Any, tree: Any, **static: Any) -> list:
            return jax.tree.leaves(kernel(*jax.tree.unflatten(tree, leaves), **static))

        return mlir.lower_fun(run, multiple_results=True)(ctx, *leaves, **static)


def _refusal(backend: str, platforms: tuple[str, ...]) -> Callable:
    """What runs in place of a kernel where there is none and the backend insists on one."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            f"backend={backend!r} has kernels for {' and '.join(platforms)}, and this program is compiled "
            "for another platform; use backend='auto' or 'scan'"
        )

    return refuse


def _varying(leaf: Any) -> frozenset:
    """The axes of the mesh over which a value inside ``jax.shard_map`` is known to vary."""
    aval = jax.typeof(leaf)
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return getattr(aval, "vma", frozenset())  # before jax 0.10


def _alone(context: Any) -> bool:
    """Whether a program compiled in this context is for one device, or inside ``jax.shard_map`` for each."""
    manual = getattr(context, "manual_axes", None)
    if manual is not None:
        return set(manual) == set(context.mesh.axis_names)
    return getattr(context, "num_devices", None) == 1


@lru_cache(maxsize=256)
def _compiled(primitive: Primitive, static: tuple) -> Callable:
    return jax.jit(partial(primitive.bind, **dict(static)))


def _axes_of_leaves(tree: Any, axes: Any) -> list[int | None]:
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
