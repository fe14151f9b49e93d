"""Torch in float64 throughout, whatever dtypes a module names, and with functions of XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy

_aten: Any = torch.ops.aten


def _hardsigmoid_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where((x > -3) & (x < 3), gradient / 6, 0.0)


EXACT: dict[Any, Callable[..., Any]] = {_aten.hardsigmoid_backward.default: _hardsigmoid_backward}
"""Operators whose float64 kernels round a constant to float32, without that."""


class _Mode(TorchDispatchMode):
    """A mode that leaves control flow operators to torch, which traces their branches."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True


class DoublePrecision(_Mode):
    """Computes in float64 where a module names a shorter dtype or holds tensors of one, within a context.

    Every operator of torch passes here. A dtype among its arguments becomes float64, and a tensor that it
    only reads is converted. A tensor that it views or writes keeps its memory and dtype.
    """

    def __init__(self, literal: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Take the function that is applied to the tensors that a module makes of numbers in its code."""
        super().__init__()
        self._literal = literal

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operator in float64."""
        kwargs = kwargs or {}
        # A control flow operator has no schema. A view as another dtype is about the bits of a number.
        if not hasattr(func, "_schema") or func is _aten.view.dtype:
            return func(*args, **kwargs)
        if func is _aten.lift_fresh.default and args[0].is_floating_point():
            return in_double(self._literal(args[0]))
        names, shared = _arguments(func)
        args = tuple(v if name in shared else in_double(v) for name, v in zip(names, args, strict=False))
        kwargs = {name: v if name in shared else in_double(v) for name, v in kwargs.items()}
        function: Any = EXACT.get(func, func)
        return function(*args, **kwargs)


class FunctionsOfXLA(_Mode):
    """Computes functions with XLA that XLA computes less precisely than torch, within a context."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operator of torch, or XLA's."""
        if func is not _aten.lgamma.default:
            return func(*args, **(kwargs or {}))
        return to_tensor(np.asarray(jax.lax.lgamma(tensor_to_numpy(args[0]))))


@functools.cache
def _arguments(func: Any) -> tuple[list[str], set[str]]:
    """Return the names of the arguments of an operator, and of each that it writes or its results share."""
    arguments = func._schema.arguments
    return [a.name for a in arguments], {a.name for a in arguments if a.alias_info is not None}


def in_double(value: Any) -> Any:
    """Return dtypes and tensors in double precision, real or complex, also in lists; the rest as it is."""
    if isinstance(value, (list, tuple)):
        return [in_double(item) for item in value]
    dtype = value.dtype if isinstance(value, torch.Tensor) else value
    if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
        return value
    wanted = torch.float64 if dtype.is_floating_point else torch.complex128
    return wanted if value is dtype else value.to(wanted)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a copy of an array as a tensor that is not a number in the code of a module."""
    with _disable_current_modes():
        return numpy_to_tensor(np.array(array, order="C"))
