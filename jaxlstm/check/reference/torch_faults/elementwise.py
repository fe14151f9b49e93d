"""Faults of operations without weights: activations, indices and shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxlstm.check.reference.torch_faults.operation import (
    Operation,
    Variant,
    changed,
    faults_of,
    missing,
    other_values,
)

if TYPE_CHECKING:
    import torch

_ACTIVATIONS = (
    *("relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "softplus"),
    *("hardtanh", "hardsigmoid", "hardswish", "relu6"),
)
_OTHERS = ("relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "hardsigmoid", "softplus")
_SLOPES = (0.01, 0.1, 0.2, 0.25, 0.3)


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


@faults_of("indexing")
def indexing(operation: Operation) -> Iterator[Variant]:
    """Yield the index of the other end of an axis."""
    index = operation.get("index")
    parts = index if isinstance(index, tuple) else (index,)
    for position, part in enumerate(parts):
        if type(part) is int and part in (0, -1):
            other = (*parts[:position], -1 - part, *parts[position + 1 :])
            yield changed(f"{{where}} is {_index(other)} instead of {_index(parts)}", index=other)


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
    """Yield the other orders in which ``flatten``, ``view`` or ``reshape`` may merge axes."""
    source, target = tuple(_source(operation).shape), tuple(operation.run().shape)
    for axes in _merged(source, target):
        for order in itertools.permutations(axes):
            if _orders_values(source, axes, order):
                cause = f"{{where}} merges axes {_axes(axes)} in the order {_axes(order)}"
                yield Variant(cause, partial(_merge, axes=axes, order=order))


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


def _merged(source: tuple[int, ...], target: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the axes of a source shape that become one axis of the target shape, several each time."""
    i = 0
    for size in target:
        first, product = i, 1
        while product < size and i < len(source):
            product, i = product * source[i], i + 1
        if product != size:  # The axis splits another one.
            return
        if i - first > 1:
            yield tuple(range(first, i))


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


def _axes(axes: tuple[int, ...]) -> str:
    return ", ".join(map(str, axes))
