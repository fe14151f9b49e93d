"""Numbers that depend on free sizes: torch's symbols, and tensors of one integer in traced archives."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .overloads import is_bool, is_int


class NumberTensor:
    """The tensor of one integer that a traced archive makes of a size, whose value is still known.

    As a tensor, a free size would be a value that torch does not know during an export.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._tensor: torch.Tensor | None = None

    def tensor(self) -> torch.Tensor:
        """Return the tensor, always the same."""
        if self._tensor is None:
            self._tensor = torch.scalar_tensor(self.value, dtype=torch.int64)
        return self._tensor


OF_SIZES: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "neg", "abs")},
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "remainder": operator.mod,
    "min": torch.sym_min,
    "max": torch.sym_max,
    "floor": math.floor,
    "ceil": math.ceil,
    "Int": lambda value: value if is_int(value) else math.trunc(value),
    "Float": torch.sym_float,
    "Bool": lambda value: value != 0 if not is_bool(value) else value,
    "__not__": lambda value: not value,
    "__and__": lambda one, other: bool(one) and bool(other),
    "__or__": lambda one, other: bool(one) or bool(other),
    "__range_length": lambda start, end, step: max(0, (end - start + step - (1 if step > 0 else -1)) // step),
    "__derive_index": lambda index, start, step: start + index * step,
}
"""Operators on numbers of which one depends on a free size."""


def _truncated(one: Any, other: Any) -> Any:
    """Return the quotient of integers, rounded towards zero."""
    return one // other if bool(one < 0) == bool(other < 0) else -(-one // other)


_OF_NUMBER_TENSORS: dict[str, Callable[..., Any]] = {
    "add": lambda one, other, alpha=1: one + other * alpha,
    "sub": lambda one, other, alpha=1: one - other * alpha,
    "mul": operator.mul,
    "neg": operator.neg,
    "floor_divide": operator.floordiv,
    "div floor": operator.floordiv,
    "div trunc": _truncated,
    "remainder": operator.mod,
}
"""Operators on tensors of one integer, with the rounding mode, whose result is another."""


def of_number_tensors(name: str, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of an operator on tensors of one integer; None if it is not a known integer."""
    numbers = [_number(arg) for arg in args]
    if name in ("Int", "IntImplicit", "ScalarImplicit", "item"):
        return numbers[0]
    if name == "Bool" and numbers[0] is not None:
        return numbers[0] != 0
    function = _OF_NUMBER_TENSORS.get(f"{name} {kwargs.get('rounding_mode') or ''}".rstrip())
    if function is None or None in numbers or kwargs.keys() - {"alpha", "rounding_mode"}:
        return None
    return NumberTensor(function(*numbers, **({"alpha": kwargs["alpha"]} if "alpha" in kwargs else {})))


def depends_on_sizes(args: list[Any]) -> bool:
    """Return True if one of some numbers depends on a free size."""
    symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return any(isinstance(arg, symbols) for arg in args) and not any(
        isinstance(arg, (torch.Tensor, list)) for arg in args
    )


def _number(value: Any) -> Any:
    """Return the integer of a number, or of the tensor of one integer; None for other values."""
    if isinstance(value, NumberTensor):
        return value.value if value._tensor is None else None
    if is_int(value):
        return value
    is_constant = type(value) is torch.Tensor and value.dtype == torch.int64 and value.dim() == 0
    return int(value) if is_constant else None


def plain(values: list[Any]) -> list[Any]:
    """Return values with tensors in the place of tensors of one integer."""
    return [value.tensor() if isinstance(value, NumberTensor) else value for value in values]
