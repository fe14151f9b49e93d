"""The same elements in another shape or with another order of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.operators.axes import axes, axis, axis_of
from jaxlstm.programs.operators.registry import Kwargs, register_operator, shares_elements


def _reshape_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    if base.size != view.size:
        raise shares_elements("an expanded tensor")
    return view.reshape(base.shape)


@register_operator("aten.view.default", write_back=_reshape_back)
def view(self: jax.Array, size: Sequence[int]) -> jax.Array:
    """Return the elements in another shape; one size may be -1."""
    return reshape(self, size)


@register_operator("aten.reshape.default", "aten._unsafe_view.default", may_alias=True)
def reshape(self: jax.Array, shape: Sequence[int] | None = None, size: Any = None) -> jax.Array:
    """Return the elements in another shape; one size may be -1."""
    return jnp.reshape(self, tuple(size if shape is None else shape))


@register_operator("aten.view_as.default", write_back=_reshape_back)
def view_as(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the elements in the shape of another tensor."""
    return self.reshape(other.shape)


@register_operator("aten.ravel.default", may_alias=True)
def ravel(self: jax.Array) -> jax.Array:
    """Merge all axes into one."""
    return self.reshape(-1)


@register_operator("aten.reshape_as.default", may_alias=True)
def reshape_as(self: jax.Array, other: jax.Array) -> jax.Array:
    """Return the elements in the shape of another tensor."""
    return self.reshape(other.shape)


@register_operator("aten.flatten.using_ints", may_alias=True)
def flatten(self: jax.Array, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
    """Merge the axes from ``start_dim`` to ``end_dim`` into one."""
    start, end = axis(self, start_dim), axis(self, end_dim)
    if self.ndim == 0:
        return self.reshape(1)
    merged = math.prod(self.shape[start : end + 1])
    return self.reshape(*self.shape[:start], merged, *self.shape[end + 1 :])


@register_operator("aten.unflatten.int", write_back=_reshape_back)
def unflatten(self: jax.Array, dim: int, sizes: Sequence[int]) -> jax.Array:
    """Split an axis into several; one size may be -1."""
    place = axis(self, dim)
    known = math.prod(size for size in sizes if size != -1)
    split = tuple(self.shape[place] // known if size == -1 else size for size in sizes)
    if math.prod(split) != self.shape[place]:
        raise ValueError(
            f"sizes {tuple(sizes)} do not multiply to {self.shape[place]}, the size of axis {dim}"
        )
    return self.reshape(*self.shape[:place], *split, *self.shape[place + 1 :])


@register_operator("aten.unsqueeze.default", write_back=_reshape_back)
def unsqueeze(self: jax.Array, dim: int) -> jax.Array:
    """Insert an axis of size 1."""
    return jnp.expand_dims(self, axis_of(self.ndim + 1, dim))


@register_operator("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", write_back=_reshape_back)
def squeeze(self: jax.Array, dim: Any = None) -> jax.Array:
    """Remove axes of size 1, all of them or only among ``dim``."""
    # An empty list of axes removes none.
    candidates = () if dim == () else axes(self, dim)
    return jnp.squeeze(self, tuple(place for place in candidates if self.shape[place] == 1))


def _register_at_least(n: int, function: Any) -> None:
    @register_operator(f"aten.atleast_{n}d.default", write_back=_reshape_back)
    def at_least(self: jax.Array) -> jax.Array:
        return function(self)

    @register_operator(f"aten.atleast_{n}d.Sequence", write_back=_reshape_back)
    def each_at_least(tensors: Sequence[jax.Array]) -> list[jax.Array]:
        return [function(tensor) for tensor in tensors]


for _n, _function in ((1, jnp.atleast_1d), (2, jnp.atleast_2d), (3, jnp.atleast_3d)):
    _register_at_least(_n, _function)


@register_operator("aten.expand.default", "aten.broadcast_to.default", write_back=_reshape_back)
def expand(self: jax.Array, size: Sequence[int], implicit: bool = False) -> jax.Array:
    """Repeat axes of size 1 and add axes in front; -1 keeps a size."""
    added = len(size) - self.ndim
    kept = (*((1,) * added), *self.shape)
    return jnp.broadcast_to(self, [own if new == -1 else new for own, new in zip(kept, size, strict=True)])


@register_operator("aten.expand_as.default", write_back=_reshape_back)
def expand_as(self: jax.Array, other: jax.Array) -> jax.Array:
    """Expand to the shape of another tensor."""
    return jnp.broadcast_to(self, other.shape)


@register_operator("aten.broadcast_tensors.default", write_back=_reshape_back)
def broadcast_tensors(tensors: Sequence[jax.Array]) -> list[jax.Array]:
    """Expand tensors to their common shape."""
    return jnp.broadcast_arrays(*tensors)


@register_operator("aten.meshgrid.default", "aten.meshgrid.indexing", write_back=_reshape_back)
def meshgrid(tensors: Sequence[jax.Array], indexing: str = "ij") -> list[jax.Array]:
    """Return the coordinates of a grid, one array for each axis; "xy" swaps the first two axes."""
    return jnp.meshgrid(*(tensor.reshape(-1) for tensor in tensors), indexing=indexing)


def _transpose_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return transpose(view, **kwargs)


@register_operator(
    "aten.transpose.int", "aten.transpose.default", "aten.swapdims.default", write_back=_transpose_back
)
def transpose(self: jax.Array, dim0: int, dim1: int) -> jax.Array:
    """Swap two axes."""
    return jnp.swapaxes(self, axis(self, dim0), axis(self, dim1)) if self.ndim else self


def _swapaxes_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return swapaxes(view, **kwargs)


@register_operator("aten.swapaxes.default", write_back=_swapaxes_back)
def swapaxes(self: jax.Array, axis0: int, axis1: int) -> jax.Array:
    """Swap two axes."""
    return transpose(self, axis0, axis1)


def _matrices_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return transpose(view, -2, -1)


@register_operator("aten.mT.default", write_back=_matrices_back)
def transpose_matrices(self: jax.Array) -> jax.Array:
    """Swap the last two axes."""
    return transpose(self, -2, -1)


def _adjoint_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return adjoint(view)


@register_operator(
    "aten.adjoint.default", "aten.mH.default", "aten.matrix_H.default", write_back=_adjoint_back
)
def adjoint(self: jax.Array) -> jax.Array:
    """Swap the last two axes and conjugate complex numbers."""
    return jnp.conj(transpose(self, -2, -1)) if self.ndim else self


def _t_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return t(view)


@register_operator("aten.t.default", "aten.numpy_T.default", write_back=_t_back)
def t(self: jax.Array) -> jax.Array:
    """Transpose a matrix; a vector stays."""
    return self.T


def _permute_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return jnp.transpose(view, np.argsort([axis(view, dim) for dim in kwargs["dims"]]).tolist())


@register_operator("aten.permute.default", write_back=_permute_back)
def permute(self: jax.Array, dims: Sequence[int]) -> jax.Array:
    """Reorder the axes."""
    return jnp.transpose(self, [axis(self, dim) for dim in dims])


def _movedim_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return jnp.moveaxis(view, kwargs["destination"], kwargs["source"])


@register_operator("aten.movedim.int", "aten.movedim.intlist", write_back=_movedim_back)
def movedim(self: jax.Array, source: Any, destination: Any) -> jax.Array:
    """Move axes to other places."""
    return jnp.moveaxis(self, source, destination)
