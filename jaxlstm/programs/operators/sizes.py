"""Sizes, arithmetic on them, and assertions. Shapes are static under ``jit``, so sizes are integers."""

import contextlib
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer, max_dim, min_dim

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import default_float, held
from jaxlstm.programs.operators.registry import register_operator
from jaxlstm.programs.sizes.guards import UNDECIDED, equal


@register_operator("aten.sym_size.int", "jaxlstm.sym_size.int", layout="along")
def sym_size(self: Array, dim: int) -> int:
    """Return the size of an axis."""
    return self.shape[axis(self, dim)]


@register_operator("aten.sym_numel.default", "jaxlstm.sym_numel.default")
def sym_numel(self: Array) -> int:
    """Return the number of elements."""
    return self.size


def _is_symbolic(value: Any) -> bool:
    """Return True for an array of a trace or a symbolic size of an artifact."""
    return isinstance(value, Tracer) or jax.export.is_symbolic_dim(value)


def _extreme(
    of_numbers: Callable[..., Any], of_sizes: Callable[..., Any], of_arrays: Callable[..., Any], *numbers: Any
) -> Any:
    if not any(map(_is_symbolic, numbers)):
        return of_numbers(numbers)
    are_sizes = not any(isinstance(number, Tracer | float) for number in numbers)
    return functools.reduce(of_sizes if are_sizes else of_arrays, numbers)


def _whole(of_number: Callable[..., Any], of_array: Callable[..., Array], number: Any) -> Any:
    return of_array(number).astype(held("int64")) if isinstance(number, Tracer) else of_number(number)


_LARGEST_EXPONENT = 64
_PYTHON_OPERATORS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "pow"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
        )
    },
    "_operator.abs": abs,
    "math.trunc": functools.partial(_whole, math.trunc, jnp.trunc),
    "math.floor": functools.partial(_whole, math.floor, jnp.floor),
    "math.ceil": functools.partial(_whole, math.ceil, jnp.ceil),
    "torch.sym_int": functools.partial(_whole, int, jnp.trunc),
    "torch.sym_float": lambda value: (
        jnp.asarray(value, default_float()) if _is_symbolic(value) else float(value)
    ),
    "torch.sym_max": functools.partial(_extreme, max, max_dim, jnp.maximum),
    "torch.sym_min": functools.partial(_extreme, min, min_dim, jnp.minimum),
    "torch.sym_not": lambda value: jnp.logical_not(value) if isinstance(value, Tracer) else not value,
    **dict.fromkeys(
        ("torch.sym_sqrt", "torch._sym_sqrt"),
        lambda value: jnp.sqrt(jnp.asarray(value)) if _is_symbolic(value) else math.sqrt(value),
    ),
}
_OF_SYMBOLIC = {operator.eq: equal, operator.ne: lambda first, second: not equal(first, second)}


def _on_sizes(function: Callable[..., Any], *operands: Any) -> Any:
    # A size fits into 64 bits. Without a bound, a file could ask for integers without end.
    if function is operator.pow and isinstance(operands[1], int) and abs(operands[1]) > _LARGEST_EXPONENT:
        raise OverflowError(f"the exponent of a size is {operands[1]}")
    if any(map(jax.export.is_symbolic_dim, operands)):
        # A condition that some sizes meet is an array of the artifact.
        with contextlib.suppress(UNDECIDED):
            return _OF_SYMBOLIC.get(function, function)(*operands)
        operands = tuple(map(jnp.asarray, operands))
    if any(isinstance(operand, Tracer) for operand in operands):
        # A number of a tensor has 32 bits. torch compares it with larger ones.
        operands = tuple(min(max(n, -(2**31)), 2**31 - 1) if type(n) is int else n for n in operands)
    result = function(*operands)
    if isinstance(result, int) and abs(result) >= 2**63:
        raise OverflowError("a size has more than 64 bits")
    return result


for _name, _function in _PYTHON_OPERATORS.items():
    register_operator(_name)(functools.partial(_on_sizes, _function))


@register_operator("torch.sym_ite")
def sym_ite(condition: Any, then: Any, otherwise: Any) -> Any:
    """Return one of two numbers."""
    if isinstance(condition, Tracer):
        return jnp.where(condition, then, otherwise)
    return then if condition else otherwise


@register_operator("aten.item.default", "aten._local_scalar_dense.default")
def item(self: Array) -> Any:
    """Return the only element as a Python number; under ``jit``, where it is unknown, as an array."""
    return self.reshape(()) if isinstance(self, Tracer) else self.item()


ASSERTIONS = ("aten._assert_scalar.default", "aten._assert_async.msg")
"""Under ``jit``, where values of tensors are unknown, a program gives NaN if one of these does not hold."""


@register_operator(*ASSERTIONS)
def assert_true(self: Any, assert_msg: str) -> None:
    """Raise if an assertion about sizes or the values of a tensor does not hold."""
    if not isinstance(self, Tracer) and not self:
        raise ProgramError("guard", f"the program requires: {assert_msg}")


@register_operator("aten._assert_tensor_metadata.default")
def assert_tensor_metadata(
    a: Array, size: Any = None, stride: Any = None, dtype: Any = None, **unused: Any
) -> None:
    """Do nothing: each step checks the shape and dtype of every node."""


@register_operator("aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default")
def sym_constrain_range(size: int, min: int | None = None, max: int | None = None) -> None:
    """Raise if a size is out of range."""
    if (min is not None and size < min) or (max is not None and size > max):
        raise ProgramError("guard", f"the program requires a size from {min} to {max}, got {size}")
