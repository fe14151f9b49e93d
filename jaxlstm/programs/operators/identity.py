"""Operators that change nothing in evaluation: dropout and assertions about values."""

from __future__ import annotations

from typing import Any

from jax import Array
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.registry import register_operator, same


# torch returns the input itself.
@register_operator(
    *(f"aten.{name}dropout.default" for name in ("", "feature_", "alpha_", "feature_alpha_")),
    write_back=same,
    in_training=lambda kwargs: bool(kwargs.get("train")),
)
def dropout(input: Array, p: float, train: bool) -> Array:
    """Return the input: dropout in evaluation."""
    return input


@register_operator("aten._assert_scalar.default")
def assert_scalar(self: Any, assert_msg: str) -> None:
    """Raise if an assertion about sizes does not hold. Under ``jit``, values of tensors are not checked."""
    if not isinstance(self, Tracer) and not self:
        raise ProgramError("guard", f"the program requires: {assert_msg}")


@register_operator("aten._assert_async.msg")
def assert_async(self: Array, assert_msg: str) -> None:
    """Raise if an assertion about the values of a tensor does not hold; not checked under ``jit``."""
    assert_scalar(self, assert_msg)


@register_operator("aten._assert_tensor_metadata.default")
def assert_tensor_metadata(
    a: Array, size: Any = None, stride: Any = None, dtype: Any = None, **unused: Any
) -> None:
    """Do nothing: the interpreter checks the shape and dtype of every node."""


@register_operator("aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default")
def sym_constrain_range(size: int, min: int | None = None, max: int | None = None) -> None:
    """Raise if a size is out of range."""
    if (min is not None and size < min) or (max is not None and size > max):
        raise ProgramError("guard", f"the program requires a size from {min} to {max}, got {size}")
