"""Faults of activation functions: another function, another form or slope, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant

NAMES = (
    *("relu", "leaky_relu", "gelu", "silu", "elu", "celu", "selu", "tanh", "sigmoid", "softplus", "mish"),
    *("hardtanh", "hardsigmoid", "hardswish", "relu6", "softsign", "logsigmoid", "glu", "prelu"),
)
_OTHERS = ("relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "hardsigmoid", "softplus")
_SLOPES = (0.01, 0.1, 0.2, 0.25, 0.3)


def activation(operation: Operation) -> Iterator[Variant]:
    """Yield faults of an activation function."""
    yield Variant("{where} is missing", lambda op: op.get("input"))
    if operation.name == "gelu":
        tanh = operation.get("approximate", "none") == "tanh"
        form = "none" if tanh else "tanh"
        words = (
            "the exact form instead of the tanh form" if tanh else "the tanh form instead of the exact one"
        )
        yield Variant(f"{{where}} has {words}", lambda op: op.run(approximate=form))
    if operation.name == "leaky_relu":
        given = operation.get("negative_slope", 0.01)
        for slope in _SLOPES:
            if slope != given:
                cause = f"the slope of {{where}} is {slope:g} instead of {given:g}"
                yield Variant(cause, lambda op, slope=slope: op.run(negative_slope=slope))
    for name in _OTHERS:
        if name != operation.name:
            cause = f"{{where}} is {name} instead of {operation.name}"
            yield Variant(cause, lambda op, name=name: _function(name)(op.get("input")))
    if operation.name == "sigmoid":
        cause = "{where} is softmax over the last axis instead of sigmoid"
        yield Variant(cause, lambda op: _function("softmax")(op.get("input"), dim=-1))
    if operation.name == "prelu" and operation.get("weight").numel() > 1:
        cause = "{where} has one slope for all channels, the first"
        yield Variant(cause, lambda op: op.run(weight=op.get("weight")[:1]))
    if operation.name != "gelu":  # Flax's gelu has the tanh form by default.
        cause = f"{{where}} is gelu, in its tanh form, instead of {operation.name}"
        yield Variant(cause, lambda op: _function("gelu")(op.get("input"), approximate="tanh"))


def softmax(operation: Operation) -> Iterator[Variant]:
    """Yield faults of a softmax or a log-softmax."""
    other = "softmax" if operation.name == "log_softmax" else "log_softmax"
    yield Variant("{where} is missing", lambda op: op.get("input"))
    yield Variant(
        f"{{where}} is {other} instead of {operation.name}",
        lambda op: _function(other)(op.get("input"), dim=op.get("dim")),
    )
    for axis in range(operation.get("input").ndim):
        if axis != operation.get("dim") % operation.get("input").ndim:
            cause = f"{{where}} is over axis {axis} instead of {operation.get('dim')}"
            yield Variant(cause, lambda op, axis=axis: _function(op.name)(op.get("input"), dim=axis))


def dropout(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a dropout that scales in evaluation mode."""
    rate = operation.get("p", 0.5)
    yield Variant("{where} scales its input in evaluation mode", lambda op: op.get("input") * (1 - rate))


def _function(name: str) -> Callable[..., Any]:
    from torch.nn import functional

    return getattr(functional, name)
