"""Joined, repeated and converted tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.axes import axes, axis, axis_of
from jaxlstm.programs.operators.dtypes import Operand, as_array, converted, held, promoted
from jaxlstm.programs.operators.registry import register_family, register_operator, same, same_values
from jaxlstm.programs.operators.unary import of_tensor


@register_operator(*(f"aten.{name}.default" for name in ("cat", "concat", "concatenate")), layout="along")
def cat(tensors: Sequence[Array], dim: int = 0) -> Array:
    """Concatenate along an axis. Tensors of shape (0,) are skipped, whatever the other shapes."""
    arrays = promoted(*tensors)
    nonempty = [array for array in arrays if array.shape != (0,)] or arrays
    return jnp.concatenate(nonempty, axis(nonempty[0], dim))


@register_operator("aten.stack.default", layout="inserts")
def stack(tensors: Sequence[Array], dim: int = 0) -> Array:
    """Concatenate along a new axis."""
    arrays = promoted(*tensors)
    return jnp.stack(arrays, axis_of(arrays[0].ndim + 1, dim))


def _stacked(function: Callable[..., Array], tensors: Sequence[Array]) -> Array:
    return function(promoted(*tensors))


_STACKS = {
    "hstack": jnp.hstack,
    "vstack row_stack": jnp.vstack,
    "dstack": jnp.dstack,
    "column_stack": jnp.column_stack,
}
register_family(_stacked, _STACKS)


@register_operator("aten.repeat.default", "aten.tile.default", schema_names={"dims": "repeats"})
def repeat(self: Array, repeats: Sequence[int]) -> Array:
    """Tile the tensor; axes, or for ``tile`` repeats, that are missing in front are added, of size 1."""
    repeats = (*(1,) * (self.ndim - len(repeats)), *repeats)
    shape = (1,) * (len(repeats) - self.ndim) + self.shape
    pairs = list(zip(shape, repeats, strict=True))
    one_element = jnp.broadcast_to(self.reshape(shape), [n if size == 1 else size for size, n in pairs])
    return jnp.tile(one_element, [1 if size == 1 else n for size, n in pairs])


@register_operator("aten.repeat_interleave.self_int", "aten.repeat_interleave.self_Tensor")
def repeat_interleave(
    self: Array, repeats: int | Array, dim: int | None = None, output_size: int | None = None
) -> Array:
    """Repeat each element of an axis, or of the flattened tensor.

    For a tensor of repeats, ``output_size`` is their sum; without it, the repeats must be known.
    """
    place = None if dim is None else axis(self, dim)
    if isinstance(repeats, int):
        return jnp.repeat(self, repeats, place)
    if isinstance(repeats, Tracer):
        if output_size is None:
            raise ProgramError(
                "unsupported-operator",
                "the size of its result depends on the tensor of repeats, which is unknown in jax.jit. Pass "
                "output_size, the sum of the repeats, to repeat_interleave, and export again",
            )
        return jnp.repeat(self, repeats, place, total_repeat_length=output_size)
    count = self.size if place is None else self.shape[place]
    total = int(np.broadcast_to(repeats, (count,)).sum())
    if output_size not in (None, total):
        raise ValueError(f"output_size must be the sum of the repeats, {total}, got {output_size}")
    return jnp.repeat(self, repeats, place, total_repeat_length=total)


@register_operator("aten.flip.default", layout="along")
def flip(self: Array, dims: Sequence[int]) -> Array:
    """Reverse axes."""
    return jnp.flip(self, axes(self, dims) if dims else ())


register_family(of_tensor, {"fliplr": jnp.fliplr, "flipud": jnp.flipud})


@register_operator("aten.rot90.default")
def rot90(self: Array, k: int = 1, dims: Sequence[int] = (0, 1)) -> Array:
    """Rotate the plane of two axes by ``k`` quarters, from the first axis towards the second."""
    return jnp.rot90(self, k, (dims[0], dims[1]))


@register_operator("aten.roll.default")
def roll(self: Array, shifts: Any, dims: Any = ()) -> Array:
    """Rotate elements along axes."""
    return jnp.roll(self, shifts, None if dims == () else dims)


def _itself(x: Array) -> Array:
    """Return the tensor itself: JAX has no strides, and arrays are immutable."""
    return x


register_family(of_tensor, {"alias lift_fresh positive": _itself}, write_back=same, layout="elementwise")
register_family(
    of_tensor, {"contiguous resolve_conj resolve_neg": _itself}, may_alias=True, layout="elementwise"
)
register_family(of_tensor, {"clone lift_fresh_copy": _itself}, layout="elementwise")


@register_operator("aten.detach.default", write_back=same_values, layout="elementwise")
def detach(self: Array) -> Array:
    """Return the tensor itself, through which no gradient flows."""
    return jax.lax.stop_gradient(self)


@register_operator(
    *("aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten._to_copy.default"),
    may_alias=True,
    layout="elementwise",
)
def to_dtype(self: Array, dtype: Any = None, copy: bool = False) -> Array:
    """Convert to a dtype; floats are truncated to integers."""
    return self if dtype is None else converted(self, held(dtype))


@register_operator("aten.promote_types.default")
def promote_types(type1: Any, type2: Any) -> np.dtype:
    """Return the smallest dtype that both dtypes convert to."""
    return np.dtype(jnp.promote_types(type1, type2))


@register_operator("aten.to.other", "aten.type_as.default", may_alias=True)
def to_other(self: Array, other: Array, copy: bool = False) -> Array:
    """Convert to the dtype of another tensor."""
    return converted(self, other.dtype)


@register_operator("aten.copy.default")
def copy(self: Array, src: Array) -> Array:
    """Return ``src`` in the shape and dtype of ``self``: the functional form of ``copy_``."""
    return jnp.broadcast_to(converted(src, self.dtype), self.shape)


@register_operator("aten.fill.Tensor", "aten.fill.Scalar")
def fill(self: Array, value: Operand) -> Array:
    """Return a number in the shape and dtype of ``self``."""
    return jnp.broadcast_to(as_array(value, self.dtype), self.shape)
