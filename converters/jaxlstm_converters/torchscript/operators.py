"""The operators that the code of an archive may call: all operators of programs, and a list of others.

Numbers, strings and tensors go to torch's own operators, so that their values are TorchScript's. Free sizes
are not numbers there, and are computed in Python.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import is_tensor_like

from ..pt2.trace.packed_rows import as_tensors
from .containers import ANY, DICTS, LISTS, STRINGS, text_of
from .overloads import CODES, call_overload, is_int
from .sizes import OF_SIZES, NumberTensor, depends_on_sizes, of_number_tensors, plain
from .text import UnsupportedValueError

_OF_NUMBERS = """
    add sub mul div floordiv remainder fmod neg pow abs eq ne lt le gt ge min max floor ceil round sqrt
    exp log sin cos tan tanh trunc __and__ __or__ __xor__ __not__ __round_to_zero_floordiv __range_length
    __derive_index Int Float Bool Complex IntImplicit FloatImplicit ScalarImplicit bitwise_and bitwise_or
    bitwise_xor gcd degrees radians isnan isinf isfinite __lshift__ __rshift__ log1p expm1 log2 log10 asin
    acos atan atan2 sinh cosh any all sum sorted index count
"""
_OF_STRINGS = """
    lower upper strip lstrip rstrip split join startswith endswith replace isdigit isalpha
    isupper islower capitalize title splitlines
"""
_COMPOSITE = """
    _shape_as_tensor argwhere fft_fft2 fft_fftn fft_fftshift fft_ifft2 fft_ifftn fft_ifftshift fft_irfft2
    fft_irfftn fft_rfft2 fft_rfftn float_power is_complex is_floating_point is_signed is_contiguous isreal
    msort nll_loss trapezoid frobenius_norm nuclear_norm norm_except_dim cov detach_ size dim
    margin_ranking_loss cosine_embedding_loss hinge_embedding_loss triplet_margin_loss poisson_nll_loss
"""
"""Operators that torch makes of operators of programs."""


@functools.cache
def _known() -> frozenset[str]:
    """Return the names of the operators that may be called."""
    from jaxlstm.programs import operators as _registered  # noqa: F401 - registers the operators
    from jaxlstm.programs.operators.registry import operator_names

    names = {name.split(".")[1] for name in operator_names() if name.startswith("aten.")}
    in_place = {f"{name}_" for name in names}
    return frozenset({*names, *in_place, *_PACKED, *f"{_OF_NUMBERS} {_OF_STRINGS} {_COMPOSITE}".split()})


_PACKED = ("_pack_padded_sequence", "_pad_packed_sequence")
"""Functions that an export of packed sequences replaces, which sees no call of an operator."""


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return a tensor in the forms of `to` that only TorchScript has: device and dtype may be None."""
    names = ("device",) * (len(args) > 0 and not is_int(args[0])) + ("dtype", "non_blocking", "copy")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return tensor.to(dtype=_dtype(given.get("dtype")) or tensor.dtype, copy=bool(given.get("copy")))


def _dtype(code: int | None) -> torch.dtype | None:
    return next((dtype for dtype, number in CODES.items() if number == code), None)


def _implicit(tensor: torch.Tensor) -> Any:
    if tensor.dim():
        raise UnsupportedValueError(f"a tensor of shape {tuple(tensor.shape)} stands for a number")
    return tensor.item()


_OF_TENSORS: dict[str, Callable[..., Any]] = {
    "size": lambda x, *dim: x.shape[dim[0]] if dim else list(x.shape),
    "dim": lambda x: x.dim(),
    "len": lambda x: x.shape[0],
    "numel": lambda x: x.numel(),
    "stride": lambda x, *dim: x.stride(*dim) if dim else list(x.stride()),
    "item": lambda x: x.item(),
    "Bool": bool,
    "Int": lambda x: int(x.item()) if not x.dtype.is_floating_point else math.trunc(x.item()),
    "Float": lambda x: float(x.item()),
    **{f"{kind}Implicit": _implicit for kind in ("Int", "Float", "Scalar")},
    **{device: lambda x: x for device in ("cpu", "cuda")},
    "data": lambda x: x.detach(),
}
"""Operators whose first argument is a tensor, which torch has for TorchScript only."""


def _tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> torch.Tensor:
    if isinstance(data, list) and not data and dtype is None:
        raise UnsupportedValueError("torch.tensor([]) needs a dtype")
    # TorchScript rounds a number to the default dtype first.
    return torch.tensor(data) if dtype is None else torch.tensor(data).to(_dtype(dtype))


def _raise(message: str, kind: str | None = None) -> None:
    name = (kind or message.partition(":")[0]).removeprefix("builtins.")
    kinds = (ValueError, TypeError, KeyError, IndexError, NotImplementedError, AssertionError, RuntimeError)
    error = next((error for error in kinds if error.__name__ == name), RuntimeError)
    raise error(message.encode("latin-1").decode(errors="replace"))


_PRIM: dict[str, Callable[..., Any]] = {
    "RaiseException": _raise,
    "NumToTensor": lambda x: NumberTensor(x) if is_int(x) else torch.scalar_tensor(x, dtype=_kind_of(x)),
    "device": lambda x: x.device,
    "dtype": lambda x: CODES[x.dtype],
    "type": lambda device: device.type,
    "layout": lambda x: 0,
    "shape": lambda x: list(x.shape),
    "ndim": lambda x: x.dim(),
    "data": lambda x: x.detach(),
    "T": lambda x: x.T,
    "requires_grad": lambda x: x.requires_grad,
    "unchecked_unwrap_optional": lambda x: x,
    **{f"is_{kind}": lambda x: False for kind in ("cuda", "quantized", "sparse", "nested")},
}
"""Operators of the namespace prim, beside min, max and abs."""


def _kind_of(value: Any) -> torch.dtype:
    return {bool: torch.bool, complex: torch.complex128}.get(type(value), torch.float64)


def call_operator(namespace: str, name: str, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of an operator, or raise UnsupportedValueError if it is not on a list."""
    if namespace == "prim" and name in ("min", "max", "abs"):
        return _of_numbers(name, plain(args))
    if namespace == "prim" and name in _PRIM:
        return _PRIM[name](*plain(args), **kwargs)
    if namespace != "aten":
        raise UnsupportedValueError(f"the operator {namespace}::{name} is not supported")
    if any(isinstance(arg, NumberTensor) for arg in args):
        if (result := of_number_tensors(name, args, kwargs)) is not None:
            return result
        args = plain(args)
    first = args[0] if args else None
    for kind, table in _TABLES:
        if isinstance(first, kind) and name in table:
            return table[name](*args, **kwargs)
    result = _call_torch(name, args, dict(zip(kwargs, plain([*kwargs.values()]), strict=True)))
    return _required(result, name, args)


_TABLES = ((list, LISTS), (dict, DICTS), (str, STRINGS), (torch.Tensor, _OF_TENSORS), (object, ANY))


def _call_torch(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if name in _OWN:
        return _OWN[name](*args, **kwargs)
    if name not in _known():
        raise UnsupportedValueError(f"the operator torch.{name} is not supported")
    if name in OF_SIZES and depends_on_sizes(args):
        return OF_SIZES[name](*args, **kwargs)
    if name == "select" and args[1:] == [0, 0] and not isinstance(args[0], torch.Tensor):
        return args[0][0]  # The number of packed sequences.
    if name in _PACKED or any(is_tensor_like(x) and not isinstance(x, torch.Tensor) for x in args):
        if name in ("size", "dim", "to") and hasattr(type(args[0]), name):
            return getattr(args[0], name)(*args[1:])
        function = getattr(torch._C._VariableFunctions, name, None)  # type: ignore[attr-defined]
        if function is not None:
            return function(*args, **kwargs)
        args = as_tensors(args)
    if name == "remainder" and type(args[-1]) is int and args[-1] == 0 and is_int(args[0]):
        raise ZeroDivisionError("integer modulo by zero")  # It would end the process.
    result = call_overload("aten", name, args, kwargs)
    return _to(*args, **kwargs) if name == "to" and result is NotImplemented else result


def _required(result: Any, name: str, values: list[Any]) -> Any:
    if result is NotImplemented:
        kinds = ", ".join(type(value).__name__ for value in values)
        raise UnsupportedValueError(f"the operator torch.{name} does not take ({kinds})")
    return result


def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, is_transposed: bool,
    output_padding: Any, groups: int, *_: bool,
) -> torch.Tensor:  # fmt: skip
    """Return the convolution that a trace records without the name of the function that was called."""
    name = f"conv{'_transpose' * is_transposed}{weight.dim() - 2}d"
    if is_transposed:
        return getattr(torch, name)(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return getattr(torch, name)(x, weight, bias, stride, padding, dilation, groups)


_OWN: dict[str, Callable[..., Any]] = {
    "_convolution": _convolution,
    "_convolution_mode": lambda x, weight, *args: getattr(torch, f"conv{weight.dim() - 2}d")(
        x, weight, *args
    ),
    "unsafe_chunk": lambda *args: [part.clone() for part in torch.chunk(*args)],
    "unsafe_split": lambda *args: [part.clone() for part in torch.split(*args)],
    "tensor": _tensor,
    "chr": chr,
    "as_tensor": lambda data, **kwargs: (_to if torch.is_tensor(data) else _tensor)(data, **kwargs),
    "str": text_of,
    "is_grad_enabled": torch.is_grad_enabled,
    "is_autocast_enabled": torch.is_autocast_enabled,
    "device": lambda *name: torch.device("cpu"),
}
"""Functions of all values. JAX places arrays itself, so that every device is the CPU."""


def is_floating(value: Any) -> bool:
    """Return True for a floating-point or complex tensor, and a float."""
    is_tensor = isinstance(value, torch.Tensor)
    return (value.is_floating_point() or value.is_complex()) if is_tensor else type(value) is float


def _of_numbers(name: str, args: list[Any]) -> Any:
    """Return prim::min, max or abs."""
    if isinstance(args[0], torch.Tensor):
        return torch.abs(*args)
    if depends_on_sizes(args):
        return OF_SIZES[name](*args)
    return _required(call_overload("prim", name, args, {}), name, args)
