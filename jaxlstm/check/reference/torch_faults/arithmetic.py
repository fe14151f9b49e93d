"""Faults of formulas in ``forward``: arithmetic, products, parts of a tensor, comparisons, dropout."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant, changed, faults_of, missing

_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "rsub": lambda a, b: b - a,
    "mul": operator.mul,
    "div": operator.truediv,
    "rdiv": lambda a, b: b / a,
}
_CONFUSED = {
    "add": ("sub",),
    "sub": ("add", "rsub"),
    "rsub": ("sub",),
    "mul": ("div",),
    "div": ("mul", "rdiv"),
}


@faults_of(*_SIGNS)
def arithmetic(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of an operand that is left out, another operator, and another number."""
    for ordinal, kept in (("first", "other"), ("second", "input")):
        cause = f"the {ordinal} operand of {{where}} is missing"
        yield Variant(cause, lambda op, kept=kept: op.run() * 0 + op.get(kept))
    for name in _CONFUSED.get(operation.name, ()):
        sign = _SIGNS[name]
        yield Variant(f"{{where}} is {name}", lambda op, sign=sign: sign(op.get("input"), op.get("other")))
    number = operation.get("other")
    if isinstance(number, (int, float)) and number > 0:
        for new in (1 - number, number**2, math.sqrt(number), 1 / number):
            yield changed(f"{{where}} has {new:g} instead of {number:g}", other=new)
    if operation.name == "mul":
        yield Variant("the product {where} is taken before the linear layer", _before_linear, traced=True)


@faults_of("linear")
def scaled_input(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a product that is taken after a linear layer instead of before it."""
    for factor, other in (("input", "other"), ("other", "input")):
        apply = partial(_after_linear, factor=factor, other=other)
        yield Variant("the product before {where} is taken after it", apply, traced=True)


def _before_linear(operation: Operation) -> Any:
    """Multiply the input of the linear layer that made a factor, of which it may be a part."""
    for y, factor in (("input", "other"), ("other", "input")):
        origin, parts = operation.origin(operation.get(y)), []
        while origin is not None and origin[0].name in ("chunk", "split"):
            parts.append(origin)
            origin = operation.origin(origin[0].get("input"))
        scale = operation.get(factor)
        if origin is None or origin[0].name != "linear" or origin[0].get("input").shape != scale.shape:
            continue
        result = origin[0].run(input=origin[0].get("input") * scale)
        for part, position in reversed(parts):
            result = part.run(input=result)[position]
        return result
    return operation.run()


def _after_linear(operation: Operation, *, factor: str, other: str) -> Any:
    origin = operation.origin(operation.get("input"))
    if origin is None or origin[0].name != "mul":
        return operation.run()
    return origin[0].get(factor) * operation.run(input=origin[0].get(other))


@faults_of("chunk", "split", "unbind")
def parts(operation: Operation) -> Iterator[Variant]:
    """Yield the other orders of up to four parts, such as gates, and the reverse order of more."""
    pieces = operation.run()
    orders = list(itertools.permutations(range(len(pieces)))) if len(pieces) <= 4 else []
    for order in (*orders[1:], tuple(range(len(pieces)))[::-1] if not orders else ()):
        if order and len({piece.shape for piece in pieces}) == 1:
            words = ", ".join(map(str, order)) if orders else "reverse"
            cause = f"the parts of {{where}} are read in the order {words}"
            yield Variant(cause, lambda op, order=order: tuple(op.run()[k] for k in order))


@faults_of("matmul", "mm", "bmm")
def product(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of a transposed matrix."""
    for name, ordinal in (("input", "first"), ("other", "second")):
        if operation.get(name).ndim > 1 and len(set(operation.get(name).shape[-2:])) == 1:
            cause = f"the {ordinal} matrix of {{where}} is transposed"
            yield Variant(cause, lambda op, name=name: op.run(**{name: op.get(name).mT}))


@faults_of("dropout")
def dropout(operation: Operation) -> Iterator[Variant]:
    """Yield the scales of dropouts that do not scale while training, or scale in both modes."""
    keep = 1 - operation.get("p", 0.5)
    for words, scale in (("multiplied", keep), ("divided", 1 / keep if keep else 1.0)):
        cause = f"{{where}} is {words} by {keep:g} in evaluation mode"
        yield Variant(cause, lambda op, scale=scale: op.get("input") * scale)


_INSTEAD = {"mean": "sum", "sum": "mean", "gt": "ge", "ge": "gt", "lt": "le", "le": "lt", "amax": "mean"}


@faults_of(*_INSTEAD)
def other_function(operation: Operation) -> Iterator[Variant]:
    """Yield the function that is taken for another."""
    import torch

    function = getattr(torch.Tensor, _INSTEAD[operation.name])
    cause = f"{{where}} is {_INSTEAD[operation.name]} instead of {operation.name}"
    yield Variant(cause, lambda op: replace(op, function=function).run())


def _exchanged(a: str, b: str) -> Variant:
    cause = f"{a} and {b} of {{where}} are exchanged"
    return Variant(cause, lambda op: op.run(**{a: op.get(b), b: op.get(a)}))


_REVERSED = Variant(
    "{where} has its parts in the reverse order", lambda op: op.run(tensors=list(op.get("tensors"))[::-1])
)
_ONLY_FAULT = {
    **dict.fromkeys(("exp", "sqrt", "rsqrt", "neg", "clamp", "abs", "square", "pow"), missing()),
    **dict.fromkeys(("cat", "stack"), _REVERSED),
    "where": _exchanged("input", "other"),
    "lerp": _exchanged("input", "end"),
}


@faults_of(*_ONLY_FAULT)
def only_fault(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of an operation that is left out, or takes its arguments in another order."""
    yield _ONLY_FAULT[operation.name]
