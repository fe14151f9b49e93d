"""Faults of operations without weights: activations, products with numbers, reductions and shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxlstm.check.reference.torch_faults.operation import (
    Operation,
    Variant,
    changed,
    faults_of,
    flipped,
    missing,
    other_values,
)

if TYPE_CHECKING:
    import torch

_ACTIVATIONS = (
    *("relu", "leaky_relu", "gelu", "silu", "elu", "celu", "selu", "tanh", "sigmoid", "softplus", "mish"),
    *("hardtanh", "hardsigmoid", "hardswish", "relu6", "softsign", "logsigmoid", "glu", "prelu"),
)
_OTHERS = ("relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "hardsigmoid", "softplus")
_SLOPES = (0.01, 0.1, 0.2, 0.25, 0.3)
_REDUCTIONS = ("sum", "mean", "amax")
_ENDS = {0: "first", -1: "last"}


def _instead(words: str, name: str, **options: Any) -> Variant:
    """Return the fault of another function of the same input."""
    return Variant(words, lambda op: _function(name)(op.get("input"), **options))


def _function(name: str) -> Callable[..., Any]:
    from torch.nn import functional

    return getattr(functional, name)


@faults_of(*_ACTIVATIONS)
def activation(operation: Operation) -> Iterator[Variant]:
    """Yield faults of an activation function."""
    yield missing()
    if operation.name == "gelu":
        tanh = operation.get("approximate", "none") == "tanh"
        words = "exact form instead of the tanh form" if tanh else "tanh form instead of the exact one"
        yield changed(f"{{where}} has the {words}", approximate="none" if tanh else "tanh")
    if operation.name == "leaky_relu":
        words = "the slope of {where} is {new} instead of {old}"
        yield from other_values(operation, "negative_slope", _SLOPES, words, 0.01)
    for name in _OTHERS:
        if name != operation.name:
            yield _instead(f"{{where}} is {name} instead of {operation.name}", name)
    if operation.name == "sigmoid":
        yield _instead("{where} is softmax over the last axis instead of sigmoid", "softmax", dim=-1)
    if operation.name == "prelu" and operation.get("weight").numel() > 1:
        cause = "{where} has one slope for all channels, the first"
        yield Variant(cause, lambda op: op.run(weight=op.get("weight")[:1]))
    if operation.name != "gelu":  # Flax's gelu has the tanh form by default.
        cause = f"{{where}} is gelu, in its tanh form, instead of {operation.name}"
        yield _instead(cause, "gelu", approximate="tanh")


@faults_of("softmax", "log_softmax")
def softmax(operation: Operation) -> Iterator[Variant]:
    """Yield faults of a softmax or a log-softmax."""
    other = "softmax" if operation.name == "log_softmax" else "log_softmax"
    given, axes = operation.get("dim"), operation.get("input").ndim
    yield missing()
    yield _instead(f"{{where}} is {other} instead of {operation.name}", other, dim=given)
    for axis in range(axes):
        if axis != given % axes:
            yield _instead(f"{{where}} is over axis {axis} instead of {given}", operation.name, dim=axis)


@faults_of("dropout")
def dropout(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a dropout that scales in evaluation mode."""
    rate = operation.get("p", 0.5)
    yield Variant("{where} scales its input in evaluation mode", lambda op: op.get("input") * (1 - rate))


@faults_of("mul", "div")
def scaling(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a product with a number, or of a quotient by one, that is missing."""
    number = operation.get("other")
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        verb = "multiplication by" if operation.name == "mul" else "division by"
        yield missing(f"the {verb} {number:g} ({{where}}) is missing")


@faults_of("interpolate")
def resampling(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of an interpolation that follows the conventions of ``jax.image.resize``."""
    mode = operation.get("mode", "nearest")
    if mode == "nearest":
        cause = "{where} is nearest-exact, as jax.image.resize is, instead of nearest"
        yield changed(cause, mode="nearest-exact")
    if mode in ("linear", "bilinear", "bicubic", "trilinear"):
        yield from flipped(operation, "align_corners")
    if mode in ("bilinear", "bicubic"):
        cause = "{where} has antialias=True, the default of jax.image.resize, instead of False"
        yield changed(cause, antialias=True)


@faults_of(*_REDUCTIONS, "max")
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


@faults_of("indexing")
def indexing(operation: Operation) -> Iterator[Variant]:
    """Yield the index of the other end of an axis, and the reductions over that axis."""
    index = operation.get("index")
    parts = index if isinstance(index, tuple) else (index,)
    for position, part in enumerate(parts):
        if type(part) is int and part in _ENDS:
            other = (*parts[:position], -1 - part, *parts[position + 1 :])
            yield changed(f"{{where}} is {_index(other)} instead of {_index(parts)}", index=other)
            if all(isinstance(before, slice) for before in parts[:position]):
                whole = (*parts[:position], slice(None), *parts[position + 1 :])
                for name in _REDUCTIONS:
                    cause = f"{{where}} is {name} over axis {position} instead of {_index(parts)}"
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


def _index(parts: tuple[Any, ...]) -> str:
    """Return an index as it is written in Python."""
    return f"[{', '.join(map(_written, parts))}]"


def _written(part: Any) -> str:
    if isinstance(part, slice):
        start, stop = ("" if bound is None else str(bound) for bound in (part.start, part.stop))
        return f"{start}:{stop}" + ("" if part.step is None else f":{part.step}")
    return "..." if part is Ellipsis else "a tensor" if hasattr(part, "shape") else str(part)


@faults_of("flatten", "view", "reshape")
def reshaping(operation: Operation) -> Iterator[Variant]:
    """Yield the other orders in which ``flatten``, ``view`` or ``reshape`` may merge or split axes."""
    source, target = tuple(_source(operation).shape), tuple(operation.run().shape)
    for old, new in _groups(source, target):
        if min(len(old), len(new)) > 1:
            continue
        merges = len(old) > 1
        axes, shape, change = (old, source, _merge) if merges else (new, target, _split)
        words = f"merges axes {_axes(axes)}" if merges else f"splits axis {_axes(old)}"
        for order in itertools.permutations(axes):
            if _orders_values(shape, axes, order):
                cause = f"{{where}} {words} in the order {_axes(order)}"
                yield Variant(cause, partial(change, axes=axes, order=order))


@faults_of("cat")
def concatenation(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a concatenation in the reverse order."""
    if len(operation.get("tensors", ())) > 1:
        yield Variant(
            "{where} has its parts in the reverse order",
            lambda op: op.run(tensors=list(op.get("tensors"))[::-1]),
        )


@faults_of("add")
def addition(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of a sum that lacks one of two tensors."""
    if all(hasattr(operation.get(name), "shape") for name in ("input", "other")):
        yield Variant("{where} lacks its first summand", lambda op: op.get("other"))
        yield missing("{where} lacks its second summand")


def _groups(
    source: tuple[int, ...], target: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the axes of a source shape and those of the target shape that hold the same elements."""
    if math.prod(source) != math.prod(target) or 0 in source:
        return
    i = j = 0
    while i < len(source) and j < len(target):
        first_i, first_j = i, j
        left, right = source[i], target[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * source[i], i + 1
            else:
                right, j = right * target[j], j + 1
        yield tuple(range(first_i, i)), tuple(range(first_j, j))


def _orders_values(shape: tuple[int, ...], axes: tuple[int, ...], order: tuple[int, ...]) -> bool:
    """Return True if another order of some axes changes the order of the values."""
    long = [axis for axis in axes if shape[axis] > 1]
    return [axis for axis in order if axis in long] != long


def _source(operation: Operation) -> torch.Tensor:
    """Return the tensor that is reshaped; a method without a signature has no names."""
    return operation.positional[0] if operation.positional else operation.get("input")


def _merge(operation: Operation, *, axes: tuple[int, ...], order: tuple[int, ...]) -> Any:
    x = _source(operation)
    permuted = list(range(x.ndim))
    permuted[axes[0] : axes[-1] + 1] = order
    return x.permute(permuted).reshape(operation.run().shape)


def _split(operation: Operation, *, axes: tuple[int, ...], order: tuple[int, ...]) -> Any:
    """Split an axis into sizes in another order, and move the new axes into place."""
    result = operation.run()
    sizes, permuted = list(result.shape), list(range(result.ndim))
    sizes[axes[0] : axes[-1] + 1] = [result.shape[axis] for axis in order]
    for position, axis in zip(axes, order, strict=True):
        permuted[axis] = position
    return result.reshape(sizes).permute(permuted)


def _axes(axes: tuple[int, ...]) -> str:
    return ", ".join(map(str, axes))
