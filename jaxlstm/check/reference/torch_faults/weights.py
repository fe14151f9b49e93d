"""Faults of linear layers, convolutions, pooling and normalizations."""

from __future__ import annotations

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

EPSILONS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12)
"""Epsilons of Flax, torch, Keras and of published models."""

_CONVOLUTIONS = tuple(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3))


def _with_weight(cause: str, change: Callable[[Any], Any]) -> Variant:
    return Variant(cause, lambda op: op.run(weight=change(op.get("weight"))))


@faults_of("linear", *_CONVOLUTIONS)
def weighted(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the weight and the bias of a linear layer or a convolution."""
    outputs, inputs, *sizes = operation.get("weight").shape
    yield changed("{where} has no bias", bias=None)
    if outputs == inputs and not sizes:
        yield _with_weight("the weight of {where} is transposed", lambda w: w.mT)
    if any(size > 1 for size in sizes):
        axes = tuple(range(2, 2 + len(sizes)))
        yield _with_weight("the weight of {where} is flipped along its spatial axes", lambda w: w.flip(axes))
    if len(sizes) > 1 and len(set(sizes)) == 1:
        cause = "the height and width of the weight of {where} are swapped"
        yield _with_weight(cause, lambda w: w.transpose(2, 3))
    if outputs == inputs and sizes:
        cause = "the input and output channels of the weight of {where} are swapped"
        yield _with_weight(cause, lambda w: w.transpose(0, 1))


@faults_of("conv1d", "conv2d", "conv3d")
def convolution(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the padding, stride and dilation of a convolution."""
    yield Variant("{where} pads as SAME does, more at the end than at the start", _same_padding)
    yield changed("{where} has no padding", padding=0)
    yield changed("{where} has a stride of 1", stride=1)
    yield changed("{where} has a dilation of 1", dilation=1)


@faults_of("batch_norm")
def statistics(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a batch normalization in training mode."""
    cause = "{where} uses the statistics of the batch, as in training mode"
    yield changed(cause, training=True, running_mean=None, running_var=None)


@faults_of("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
def normalization(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the epsilon, the scale and the bias of a normalization."""
    words = "the epsilon of {where} is {new} instead of {old}"
    yield from other_values(operation, "eps", EPSILONS, words)
    yield changed("{where} has no bias", bias=None)
    yield changed("{where} has no scale", weight=None)
    yield missing()


def _same_padding(operation: Operation) -> torch.Tensor:
    import torch

    kernel = operation.get("weight").shape[2:]
    stride, dilation = (_tuple(operation.get(name, 1), len(kernel)) for name in ("stride", "dilation"))
    pads = same_pads(operation.get("input").shape[2:], kernel, stride, dilation)
    return operation.run(input=torch.nn.functional.pad(operation.get("input"), pads), padding=0)


def same_pads(sizes: Any, kernel: Any, stride: Any, dilation: Any) -> list[int]:
    """Return the padding of XLA's SAME in the order of ``torch.nn.functional.pad``."""
    pads: list[int] = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return pads


def _tuple(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value) * (count if len(value) == 1 else 1)


@faults_of(*(f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)))
def pooling(operation: Operation) -> Iterator[Variant]:
    """Yield faults of a max or average pooling."""
    is_max = operation.name.startswith("max")
    yield from other_values(operation, "stride", (1, 2), "the stride of {where} is {new}")
    yield changed("{where} has no padding", padding=0)
    yield Variant("{where} pads as SAME does, without counting the padding", _same)
    if not is_max:
        yield Variant("{where} pads as SAME does and counts the padding", partial(_same, count=True))
        counts = operation.get("count_include_pad", True)
        words = "does not count the padding" if counts else "counts the padding"
        yield changed(f"{{where}} {words}", count_include_pad=not counts)
    yield from flipped(operation, "ceil_mode")
    yield Variant(f"{{where}} takes the {'average' if is_max else 'maximum'}", _other_kind)
    yield missing()


def _same(operation: Operation, count: bool = False) -> torch.Tensor:
    """Pool with the padding of XLA's SAME."""
    from torch.nn.functional import pad

    kernel, stride = _windows(operation)
    x, is_max = operation.get("input"), operation.name.startswith("max")
    pads = same_pads(x.shape[-len(kernel) :], kernel, stride, (1,) * len(kernel))

    def pooled(x: torch.Tensor) -> Any:
        padded = pad(x, pads, value=-float("inf") if is_max else 0.0)
        return operation.run(input=padded, padding=0, ceil_mode=False)

    return pooled(x) if is_max or count else pooled(x) / pooled(x * 0 + 1)


def _other_kind(operation: Operation) -> torch.Tensor:
    from torch.nn import functional

    kind, rest = operation.name.split("_")
    pool = getattr(functional, f"{'avg' if kind == 'max' else 'max'}_{rest}")
    return pool(operation.get("input"), *_windows(operation), operation.get("padding", 0))


def _windows(operation: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    dims = int(operation.name[-2])
    kernel, stride = _tuple(operation.get("kernel_size"), dims), operation.get("stride")
    return kernel, _tuple(stride, dims) if stride not in (None, []) else kernel
