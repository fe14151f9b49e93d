"""Torch in float64 throughout, whatever dtypes a module names, and with functions of XLA."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy

_aten: Any = torch.ops.aten


def _hardsigmoid_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where((x > -3) & (x < 3), gradient / 6, 0.0)


def _sort(x: torch.Tensor, dim: int = -1, descending: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return _aten.sort.stable(x, stable=True, dim=dim, descending=descending)


STABLE: dict[Any, Callable[..., Any]] = {_aten.sort.default: _sort}
"""Operators that may exchange equal elements, and do for many of them, without that."""

EXACT = {**STABLE, _aten.hardsigmoid_backward.default: _hardsigmoid_backward}
"""Also operators whose float64 kernels round a constant to float32."""


class OtherFunctions(TorchDispatchMode):
    """Computes some operators of torch by other functions, within a context.

    Control flow operators are left to torch, which traces their branches.
    """

    supports_higher_order_operators = True

    def __init__(self, functions: dict[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self._functions = functions

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Return True: torch may trace the branches under the mode."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operator of torch, or the other function."""
        function: Any = self._functions.get(func, func)
        return function(*args, **(kwargs or {}))


class DoublePrecision(OtherFunctions):
    """Computes in float64 where a module names a shorter dtype or holds tensors of one, within a context.

    Every operator of torch passes here. A dtype among its arguments becomes float64, and a tensor that it
    only reads is converted. A tensor that it views or writes keeps its memory and dtype.
    """

    def __init__(self, literal: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Take the function that is applied to the tensors that a module makes of numbers in its code."""
        super().__init__(EXACT)
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
        return super().__torch_dispatch__(func, types, args, kwargs)


def _softplus(x: torch.Tensor, beta: float = 1, threshold: float = 20) -> torch.Tensor:
    if threshold < _SAME_SOFTPLUS:
        return _aten.softplus(x, beta, threshold)
    return torch.logaddexp(x * beta, torch.zeros_like(x)) / beta


def _softplus_backward(
    gradient: torch.Tensor, x: torch.Tensor, beta: float, threshold: float
) -> torch.Tensor:
    if threshold < _SAME_SOFTPLUS:
        return _aten.softplus_backward(gradient, x, beta, threshold)
    return gradient * torch.sigmoid(x * beta)


_SAME_SOFTPLUS = 17
"""Above it, softplus differs from its argument by less than the rounding of float32."""

OF_XLA: dict[Any, Callable[..., Any]] = {
    _aten.lgamma.default: lambda x: to_tensor(np.asarray(jax.lax.lgamma(tensor_to_numpy(x))))
}
"""Functions that XLA computes less precisely than torch."""

SMOOTH: dict[Any, Callable[..., Any]] = {
    _aten.softplus.default: _softplus,
    _aten.softplus_backward.default: _softplus_backward,
}
"""Functions that torch cuts where float32 does not show it, uncut."""


def _cond(pred: torch.Tensor, then: Any, otherwise: Any, operands: Any) -> Any:
    return (then if pred else otherwise)(*operands)


def _while_loop(cond: Any, body: Any, carried: Any, additional_inputs: Any) -> tuple[Any, ...]:
    for _ in range(_MOST_STEPS):
        if not cond(*carried, *additional_inputs):
            return tuple(carried)
        carried = body(*carried, *additional_inputs)
    raise RuntimeError(f"a while_loop takes more than {_MOST_STEPS} steps")


_MOST_STEPS = 10_000
"""A limit for loops with a planted fault, which may never end."""


def _scan(combine: Any, init: Any, xs: Any, additional_inputs: Any) -> tuple[Any, ...]:
    carry, steps = init, []
    for parts in zip(*xs, strict=True):
        results = combine(*carry, *parts, *additional_inputs)
        carry, out = results[: len(init)], results[len(init) :]
        steps.append(out)
    return *carry, *(None if out[0] is None else torch.stack(out) for out in zip(*steps, strict=True))


_CONTROL_FLOW = {"cond": _cond, "while_loop": _while_loop, "scan": _scan}


@contextlib.contextmanager
def plain_control_flow() -> Iterator[None]:
    """Run the functions of control flow in Python, so that each of their operators passes the modes."""
    operator = torch._ops.HigherOrderOperator
    call = vars(operator)["__call__"]

    def run(op: Any, *args: Any, **kwargs: Any) -> Any:
        return (_CONTROL_FLOW.get(op.name()) or functools.partial(call, op))(*args, **kwargs)

    with (
        mock.patch.object(operator, "__call__", run),
        mock.patch.object(torch, "compile", lambda function, **settings: function),
    ):
        yield


class _Layers:
    """The functions of recurrent layers, in one piece where no operator of theirs needs a mode."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(torch._VF, name)

        def call(*args: Any) -> Any:
            tensors = [a for a in jax.tree.leaves(args) if isinstance(a, torch.Tensor)]
            dtypes = {a.dtype for a in tensors if a.is_floating_point()}
            is_plain = dtypes == {torch.get_default_dtype()}
            with _disable_current_modes() if is_plain else contextlib.nullcontext():
                return function(*args)

        return call


def layers_in_one_piece() -> Any:
    """Return a context in which a mode costs a recurrent layer no time for each step."""
    return mock.patch.object(torch.nn.modules.rnn, "_VF", _Layers())


@contextlib.contextmanager
def dtypes_as_in(working: torch.dtype) -> Iterator[None]:
    """Show the code of a module its own dtype where a tensor has float64, for its conditions and finfo."""
    true_dtype: Any = torch._C.TensorBase.dtype

    def dtype(tensor: torch.Tensor) -> torch.dtype:
        actual = true_dtype.__get__(tensor)
        is_ours = sys._getframe(1).f_globals.get("__name__", "").startswith(("torch.", "jaxlstm."))
        return working if actual == torch.float64 and not is_ours else actual

    with mock.patch.object(torch.Tensor, "dtype", property(dtype)):
        yield


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
    double = torch.float64 if dtype.is_floating_point else torch.complex128
    return value if dtype is double else double if value is dtype else value.to(double)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a copy of an array as a tensor that is not a number in the code of a module."""
    with _disable_current_modes():
        return numpy_to_tensor(np.array(array, order="C"))
