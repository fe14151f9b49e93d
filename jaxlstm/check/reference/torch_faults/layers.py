"""Faults of linear layers, convolutions, embeddings and normalizations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant

if TYPE_CHECKING:
    import torch

EPSILONS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12)
"""Epsilons of Flax, torch, Keras and of published models."""


def weighted(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the weight and the bias of a linear layer or a convolution."""
    weight: Any = operation.get("weight")
    if operation.get("bias") is not None:
        yield Variant("{where} has no bias", lambda op: op.run(bias=None))
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
        yield Variant("the weight of {where} is transposed", lambda op: op.run(weight=op.get("weight").mT))
    spatial = tuple(range(2, weight.ndim))
    if spatial and any(weight.shape[axis] > 1 for axis in spatial):
        yield Variant(
            "the weight of {where} is flipped along its spatial axes",
            lambda op: op.run(weight=op.get("weight").flip(spatial)),
        )
    if len(spatial) > 1 and len({weight.shape[axis] for axis in spatial}) == 1:
        yield Variant(
            "the height and width of the weight of {where} are swapped",
            lambda op: op.run(weight=op.get("weight").transpose(2, 3)),
        )
    if spatial and weight.shape[0] == weight.shape[1]:
        yield Variant(
            "the input and output channels of the weight of {where} are swapped",
            lambda op: op.run(weight=op.get("weight").transpose(0, 1)),
        )


def convolution(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the padding, stride and dilation of a convolution."""
    yield from weighted(operation)
    if "transpose" in operation.name:
        return
    yield Variant("{where} pads as SAME does, more at the end than at the start", _same_padding)
    yield Variant("{where} has no padding", lambda op: op.run(padding=0))
    yield Variant("{where} has a stride of 1", lambda op: op.run(stride=1))
    yield Variant("{where} has a dilation of 1", lambda op: op.run(dilation=1))


def normalization(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the epsilon, the scale and the bias of a normalization."""
    given = operation.get("eps")
    for epsilon in EPSILONS:
        if epsilon != given:
            cause = f"the epsilon of {{where}} is {epsilon:g} instead of {_number(given)}"
            yield Variant(cause, lambda op, epsilon=epsilon: op.run(eps=epsilon))
    if operation.get("bias") is not None:
        yield Variant("{where} has no bias", lambda op: op.run(bias=None))
    if operation.get("weight") is not None:
        yield Variant("{where} has no scale", lambda op: op.run(weight=None))
    yield Variant("{where} is missing", lambda op: op.get("input"))
    if operation.name == "group_norm" and operation.get("num_groups") != 1:
        yield Variant("{where} has one group", lambda op: op.run(num_groups=1))


def batch_norm(operation: Operation) -> Iterator[Variant]:
    """Yield faults of a batch normalization."""
    if not operation.get("training"):
        yield Variant(
            "{where} uses the statistics of the batch, as in training mode",
            lambda op: op.run(training=True, running_mean=None, running_var=None),
        )
    yield from normalization(operation)


def embedding(operation: Operation) -> Iterator[Variant]:
    """Yield faults of an embedding."""
    yield Variant("the indices of {where} are one too low", lambda op: op.run(input=op.get("input").sub(1)))
    yield Variant(
        "the result of {where} is multiplied by the square root of its size",
        lambda op: op.run() * op.get("weight").shape[1] ** 0.5,
    )


def _same_padding(operation: Operation) -> torch.Tensor:
    import torch

    x, weight = operation.get("input"), operation.get("weight")
    count = weight.ndim - 2
    stride, dilation = (_tuple(operation.get(name, 1), count) for name in ("stride", "dilation"))
    pads = same_pads(x.shape[-count:], weight.shape[2:], stride, dilation)
    return operation.run(input=torch.nn.functional.pad(x, pads), padding=0)


def same_pads(sizes: Any, kernel: Any, stride: Any, dilation: Any) -> list[int]:
    """Return the padding of XLA's SAME in the order of ``torch.nn.functional.pad``."""
    pads: list[int] = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return pads


def _tuple(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value) * (count if len(value) == 1 else 1)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
