"""Faults of the vector that stands for a sequence: another reduction, or the other end of an axis."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant

if TYPE_CHECKING:
    import torch

_REDUCTIONS = ("sum", "mean", "amax")
REDUCTIONS = (*_REDUCTIONS, "max")
_ENDS = {0: "first", -1: "last"}


def reduction(operation: Operation) -> Iterator[Variant]:
    """Yield the other reductions over the same axes, and the elements at the ends of a single axis."""
    dim = operation.get("dim")
    if dim is None or hasattr(dim, "shape"):  # over all axes; the maximum of two tensors
        return
    for name in _REDUCTIONS:
        if name not in (operation.name, f"a{operation.name}"):
            cause = f"{{where}} is {name} instead of {operation.name}"
            yield Variant(cause, partial(_reduce, name=name))
    if isinstance(dim, int):
        for end, which in _ENDS.items():
            cause = f"{{where}} is the {which} element of axis {dim} instead of {operation.name}"
            yield Variant(cause, partial(_select, end=end))


def indexing(operation: Operation) -> Iterator[Variant]:
    """Yield the index of the other end of an axis, and the reductions over that axis."""
    index = operation.get("index")
    parts = index if isinstance(index, tuple) else (index,)
    for position, part in enumerate(parts):
        if type(part) is int and part in _ENDS:
            other = (*parts[:position], -1 - part, *parts[position + 1 :])
            cause = f"{{where}} is {_listed(other)} instead of {_listed(parts)}"
            yield Variant(cause, lambda op, other=other: op.run(index=other))
            if all(isinstance(before, slice) for before in parts[:position]):
                whole = (*parts[:position], slice(None), *parts[position + 1 :])
                for name in _REDUCTIONS:
                    cause = f"{{where}} is {name} over axis {position} instead of {_listed(parts)}"
                    yield Variant(cause, partial(_reduce_axis, index=whole, axis=position, name=name))


def _reduce(operation: Operation, *, name: str) -> Any:
    dims = {key: value for key, value in operation.arguments.items() if key in ("dim", "keepdim")}
    return _as_result(operation, getattr(operation.get("input"), name)(**dims))


def _reduce_axis(operation: Operation, *, index: tuple[Any, ...], axis: int, name: str) -> Any:
    return getattr(operation.run(index=index), name)(axis)


def _select(operation: Operation, *, end: int) -> Any:
    dim = operation.get("dim")
    selected = operation.get("input").select(dim, end)
    return _as_result(operation, selected.unsqueeze(dim) if operation.get("keepdim") else selected)


def _as_result(operation: Operation, values: torch.Tensor) -> Any:
    """Return the values as the operation does: ``max`` over an axis returns indices, too."""
    result = operation.run()
    return type(result)((values, result[1])) if isinstance(result, tuple) else values


def _listed(parts: tuple[Any, ...]) -> str:
    """Return an index as it is written in Python."""
    return f"[{', '.join(map(_written, parts))}]"


def _written(part: Any) -> str:
    if isinstance(part, slice):
        start, stop = ("" if bound is None else str(bound) for bound in (part.start, part.stop))
        return f"{start}:{stop}" + ("" if part.step is None else f":{part.step}")
    return "..." if part is Ellipsis else "a tensor" if hasattr(part, "shape") else str(part)
