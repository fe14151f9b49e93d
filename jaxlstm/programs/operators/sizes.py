"""Sizes and arithmetic on them. Shapes are static under ``jit``, so sizes are Python integers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.sym_size.int")
def sym_size(self: Array, dim: int) -> int:
    """Return the size of an axis."""
    return self.shape[axis(self, dim)]


@register_operator("aten.sym_numel.default")
def sym_numel(self: Array) -> int:
    """Return the number of elements."""
    return self.size


_LARGEST_EXPONENT = 64
_PYTHON_OPERATORS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "pow"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
        )
    },
    "math.trunc": math.trunc,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_sqrt": math.sqrt,
}


def _on_sizes(function: Callable[..., Any], *operands: Any) -> Any:
    # A size fits into 64 bits. Without a bound, a file could ask for integers without end.
    if function is operator.pow and isinstance(operands[1], int) and abs(operands[1]) > _LARGEST_EXPONENT:
        raise OverflowError(f"the exponent of a size is {operands[1]}")
    result = function(*operands)
    if isinstance(result, int) and abs(result) >= 2**63:
        raise OverflowError("a size has more than 64 bits")
    return result


for _name, _function in _PYTHON_OPERATORS.items():
    register_operator(_name)(partial(_on_sizes, _function))
