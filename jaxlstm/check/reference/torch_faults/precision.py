"""Faults of precision: operands of products that are rounded to half precision or to TF32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant


def product(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of an operation that rounds its operands, its product, and the sum with the bias.

    XLA may leave out the last one or two of these roundings.
    """
    for dtype in ("bfloat16", "float16"):
        for words, roundings in (("computes", 3), ("computes the product", 2), ("takes its operands", 1)):
            yield Variant(
                f"{{where}} {words} in {dtype}",
                lambda op, dtype=dtype, roundings=roundings: _in_half(op, dtype, roundings),
            )
    yield Variant("{where} takes its operands in TF32", lambda op: _with_rounded_operands(op, _to_tf32))


def _in_half(operation: Operation, dtype: str, roundings: int) -> Any:
    bias = operation.get("bias")
    result = _with_rounded_operands(operation, lambda a: _round(a, dtype), bias=None)
    if isinstance(result, tuple):
        return tuple(_round(a, dtype) if roundings > 1 else a for a in result)
    if roundings > 1:
        result = _round(result, dtype)
    if bias is not None:
        axes = operation.get("weight").ndim - 2  # The axes after the channels.
        result = result + _round(bias, dtype).reshape(-1, *(1,) * axes)
    return _round(result, dtype) if roundings > 2 else result


def _with_rounded_operands(operation: Operation, rounded: Callable[[Any], Any], **changes: Any) -> Any:
    arguments = {name: _map(value, rounded) for name, value in operation.arguments.items()}
    return operation.run(**arguments | {name: changes[name] for name in changes if name in arguments})


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_map(entry, change) for entry in value)
    is_float = hasattr(value, "is_floating_point") and value.is_floating_point()
    return change(value) if is_float else value


def _round(tensor: Any, dtype: str) -> Any:
    import torch

    return tensor.to(getattr(torch, dtype)).to(tensor.dtype)


def _to_tf32(tensor: Any) -> Any:
    """Round the mantissa of float32 to 10 bits."""
    import torch

    bits = tensor.to(torch.float32).contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).to(tensor.dtype)
