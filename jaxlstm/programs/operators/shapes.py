"""The same elements in another shape, with another order of axes, or conjugated."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.programs.operators.axes import axes, axis, axis_of
from jaxlstm.programs.operators.registry import Kwargs, register_family, register_operator, shares_elements
from jaxlstm.programs.operators.unary import of_tensor
from jaxlstm.programs.sizes.guards import equal


def _reshape_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    if base.size != view.size:
        raise shares_elements("an expanded tensor")
    return view.reshape(base.shape)


def _reshape(self: Array, size: Sequence[int]) -> Array:
    """Return the elements in another shape; one size may be -1."""
    return jnp.reshape(self, tuple(size))


register_operator("aten.view.default", write_back=_reshape_back, layout="merges")(_reshape)
register_operator(
    *("aten.reshape.default", "aten._unsafe_view.default"),
    may_alias=True,
    schema_names={"shape": "size"},
    layout="merges",
)(_reshape)


def _reshape_as(self: Array, other: Array) -> Array:
    """Return the elements in the shape of another tensor."""
    return self.reshape(other.shape)


register_operator("aten.view_as.default", write_back=_reshape_back)(_reshape_as)
register_operator("aten.reshape_as.default", may_alias=True)(_reshape_as)


@register_operator("aten.flatten.using_ints", "aten.ravel.default", may_alias=True, layout="merges")
def flatten(self: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    """Merge the axes from ``start_dim`` to ``end_dim``, by default all, into one."""
    start, end = axis(self, start_dim), axis(self, end_dim)
    if self.ndim == 0:
        return self.reshape(1)
    merged = math.prod(self.shape[start : end + 1])
    return self.reshape(*self.shape[:start], merged, *self.shape[end + 1 :])


@register_operator("aten.unflatten.int", write_back=_reshape_back)
def unflatten(self: Array, dim: int, sizes: Sequence[int]) -> Array:
    """Split an axis into several; one size may be -1."""
    place = axis(self, dim)
    product = math.prod(size for size in sizes if size != -1)
    split = tuple(self.shape[place] // product if size == -1 else size for size in sizes)
    if math.prod(split) != self.shape[place]:
        raise ValueError(
            f"sizes {tuple(sizes)} do not multiply to {self.shape[place]}, the size of axis {dim}"
        )
    return self.reshape(*self.shape[:place], *split, *self.shape[place + 1 :])


@register_operator("aten.unsqueeze.default", write_back=_reshape_back, layout="inserts")
def unsqueeze(self: Array, dim: int) -> Array:
    """Insert an axis of size 1."""
    return jnp.expand_dims(self, axis_of(self.ndim + 1, dim))


@register_operator(
    *("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims"),
    write_back=_reshape_back,
    layout="squeezes",
)
def squeeze(self: Array, dim: Any = None) -> Array:
    """Remove axes of size 1, all of them or only among ``dim``."""
    # An empty list of axes removes none.
    candidates = () if dim == () else axes(self, dim)
    return jnp.squeeze(self, tuple(place for place in candidates if equal(self.shape[place], 1)))


def _each(function: Any, tensors: Sequence[Array]) -> list[Array]:
    return [function(tensor) for tensor in tensors]


_AT_LEAST = {"atleast_1d": jnp.atleast_1d, "atleast_2d": jnp.atleast_2d, "atleast_3d": jnp.atleast_3d}
register_family(of_tensor, _AT_LEAST, write_back=_reshape_back)
register_family(_each, _AT_LEAST, "Sequence", write_back=_reshape_back)


@register_operator("aten.expand.default", "aten.broadcast_to.default", write_back=_reshape_back)
def expand(self: Array, size: Sequence[int], implicit: bool = False) -> Array:
    """Repeat axes of size 1 and add axes in front; -1 keeps a size."""
    added = len(size) - self.ndim
    sizes = (*((1,) * added), *self.shape)
    return jnp.broadcast_to(self, [old if new == -1 else new for old, new in zip(sizes, size, strict=True)])


@register_operator("aten.expand_as.default", write_back=_reshape_back, layout="elementwise")
def expand_as(self: Array, other: Array) -> Array:
    """Expand to the shape of another tensor."""
    return jnp.broadcast_to(self, other.shape)


@register_operator("aten.broadcast_tensors.default", write_back=_reshape_back)
def broadcast_tensors(tensors: Sequence[Array]) -> list[Array]:
    """Expand tensors to their common shape."""
    return jnp.broadcast_arrays(*tensors)


@register_operator("aten.meshgrid.default", "aten.meshgrid.indexing", write_back=_reshape_back)
def meshgrid(tensors: Sequence[Array], indexing: str = "ij") -> list[Array]:
    """Return the coordinates of a grid, one array for each axis; "xy" swaps the first two axes."""
    return jnp.meshgrid(*(tensor.reshape(-1) for tensor in tensors), indexing=indexing)


@register_operator("aten.cartesian_prod.default")
def cartesian_prod(tensors: Sequence[Array]) -> Array:
    """Return all combinations of the elements of 1-D arrays, one per row."""
    if len(tensors) == 1:
        return tensors[0]
    return jnp.stack(jnp.meshgrid(*tensors, indexing="ij"), -1).reshape(-1, len(tensors))


def _transpose_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return transpose(view, **kwargs)


@register_operator(
    *("aten.transpose.int", "aten.transpose.default", "aten.swapdims.default", "aten.swapaxes.default"),
    write_back=_transpose_back,
    schema_names={"axis0": "dim0", "axis1": "dim1"},
    layout="permutes",
)
def transpose(self: Array, dim0: int, dim1: int) -> Array:
    """Swap two axes."""
    return jnp.swapaxes(self, axis(self, dim0), axis(self, dim1)) if self.ndim else self


def _own_inverse(function: Any, base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return function(view)


_OWN_INVERSE: dict[str, Any] = {
    "adjoint mH matrix_H": lambda x: jnp.conj(transpose(x, -2, -1)) if x.ndim else x,
    "mT": lambda x: transpose(x, -2, -1),
    "t numpy_T": lambda x: x.T,
    "_conj conj": jnp.conj,
}
for _names, _function in _OWN_INVERSE.items():
    register_family(of_tensor, {_names: _function}, write_back=functools.partial(_own_inverse, _function))


def _permute_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return jnp.transpose(view, np.argsort([axis(view, dim) for dim in kwargs["dims"]]).tolist())


@register_operator("aten.permute.default", write_back=_permute_back, layout="permutes")
def permute(self: Array, dims: Sequence[int]) -> Array:
    """Reorder the axes."""
    return jnp.transpose(self, [axis(self, dim) for dim in dims])


@register_operator(
    *(f"aten.{name}.{overload}" for name in ("movedim", "moveaxis") for overload in ("int", "intlist")),
    write_back=lambda base, view, _, kwargs: jnp.moveaxis(view, kwargs["destination"], kwargs["source"]),
    layout="permutes",
)
def movedim(self: Array, source: Any, destination: Any) -> Array:
    """Move axes to other places."""
    return jnp.moveaxis(self, source, destination)
