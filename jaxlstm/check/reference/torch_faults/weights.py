"""Faults of linear layers, convolutions, pooling, embeddings and normalizations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant, changed, faults_of, missing

if TYPE_CHECKING:
    import torch

EPSILONS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12)
"""Epsilons of Flax, torch, Keras and of published models."""


_CONVOLUTIONS = tuple(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3))
PRODUCTS = ("linear", *_CONVOLUTIONS, "lstm")


@faults_of("linear", *_CONVOLUTIONS)
def weighted(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the weight and the bias of a linear layer or a convolution."""
    weight: Any = operation.get("weight")
    if operation.get("bias") is not None:
        yield changed("{where} has no bias", bias=None)
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


@faults_of("conv1d", "conv2d", "conv3d")
def convolution(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the padding, stride and dilation of a convolution."""
    yield Variant("{where} pads as SAME does, more at the end than at the start", _same_padding)
    yield changed("{where} has no padding", padding=0)
    yield changed("{where} has a stride of 1", stride=1)
    yield changed("{where} has a dilation of 1", dilation=1)
    yield Variant(
        "{where} has a dilation of 1 and pads as SAME does", lambda op: _same_padding(op, dilation=1)
    )
    yield Variant("{where} pads at the start only, as a causal convolution", _causal_padding)
    yield Variant("{where} pads circularly", _circular_padding)


@faults_of("batch_norm")
def statistics(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a batch normalization in training mode."""
    if not operation.get("training"):
        cause = "{where} uses the statistics of the batch, as in training mode"
        yield changed(cause, training=True, running_mean=None, running_var=None)


@faults_of("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
def normalization(operation: Operation) -> Iterator[Variant]:
    """Yield faults of the epsilon, the scale and the bias of a normalization."""
    given = operation.get("eps")
    for epsilon in EPSILONS:
        if epsilon != given:
            number = f"{given:g}" if isinstance(given, float) else given
            yield changed(f"the epsilon of {{where}} is {epsilon:g} instead of {number}", eps=epsilon)
    if operation.get("bias") is not None:
        yield changed("{where} has no bias", bias=None)
    if operation.get("weight") is not None:
        yield changed("{where} has no scale", weight=None)
    yield missing()


@faults_of("group_norm")
def groups(operation: Operation) -> Iterator[Variant]:
    """Yield the other numbers of groups."""
    given, channels = operation.get("num_groups"), operation.get("input").shape[1]
    for count in range(1, channels + 1):
        if count != given and channels % count == 0:
            yield changed(f"{{where}} has num_groups={count} instead of {given}", num_groups=count)


@faults_of("embedding")
def embedding(operation: Operation) -> Iterator[Variant]:
    """Yield faults of an embedding."""
    yield Variant("the indices of {where} are one too low", lambda op: op.run(input=op.get("input").sub(1)))
    yield Variant(
        "the result of {where} is multiplied by the square root of its size",
        lambda op: op.run() * op.get("weight").shape[1] ** 0.5,
    )


def _same_padding(operation: Operation, dilation: Any = None) -> torch.Tensor:
    count = operation.get("weight").ndim - 2
    dilation = _tuple(dilation or operation.get("dilation", 1), count)
    stride = _tuple(operation.get("stride", 1), count)
    pads = same_pads(
        operation.get("input").shape[-count:], operation.get("weight").shape[2:], stride, dilation
    )
    return _padded(operation, pads, dilation=dilation)


def _causal_padding(operation: Operation) -> torch.Tensor:
    pads: list[int] = []
    for size, dilation in _kernel(operation):
        pads = [dilation * (size - 1), 0, *pads]
    return _padded(operation, pads)


def _circular_padding(operation: Operation) -> torch.Tensor:
    kernel = list(_kernel(operation))
    given = operation.get("padding", 0)
    if isinstance(given, str):
        return _padded(
            operation, [d * (k - 1) // 2 for k, d in reversed(kernel) for _ in range(2)], "circular"
        )
    return _padded(operation, [p for p in reversed(_tuple(given, len(kernel))) for _ in range(2)], "circular")


def _kernel(operation: Operation) -> Iterator[tuple[int, int]]:
    """Yield the size and the dilation of each spatial axis of a kernel."""
    sizes = operation.get("weight").shape[2:]
    return zip(sizes, _tuple(operation.get("dilation", 1), len(sizes)), strict=True)


def _padded(operation: Operation, pads: list[int], mode: str = "constant", **changes: Any) -> torch.Tensor:
    """Run a convolution on an input that is padded before, in the order of ``torch.nn.functional.pad``."""
    import torch

    x = torch.nn.functional.pad(operation.get("input"), pads, mode)
    return operation.run(input=x, padding=0, **changes)


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
    for stride in (1, 2):
        yield changed(f"the stride of {{where}} is {stride}", stride=stride)
    yield changed("{where} has no padding", padding=0)
    yield Variant("{where} pads as SAME does, without counting the padding", _same)
    if not is_max:
        yield Variant("{where} pads as SAME does and counts the padding", lambda op: _same(op, count=True))
        counts = operation.get("count_include_pad", True)
        words = "does not count the padding" if counts else "counts the padding"
        yield changed(f"{{where}} {words}", count_include_pad=not counts)
    ceil = operation.get("ceil_mode", False)
    yield changed(f"{{where}} has ceil_mode={not ceil} instead of {ceil}", ceil_mode=not ceil)
    other = "average" if is_max else "maximum"
    yield Variant(f"{{where}} takes the {other}", _other_kind)
    yield missing()


def _same(operation: Operation, count: bool = False) -> torch.Tensor:
    """Pool with the padding of XLA's SAME."""
    from torch.nn.functional import pad

    x, dims = operation.get("input"), int(operation.name[-2])
    kernel, stride = _windows(operation)
    pads = same_pads(x.shape[-dims:], kernel, stride, (1,) * dims)
    if operation.name.startswith("max"):
        return operation.run(input=pad(x, pads, value=-float("inf")), padding=0, ceil_mode=False)
    total = operation.run(input=pad(x, pads), padding=0, ceil_mode=False)
    if count:
        return total
    share = operation.run(input=pad(x * 0 + 1, pads), padding=0, ceil_mode=False)
    return total / share


def _other_kind(operation: Operation) -> torch.Tensor:
    from torch.nn import functional

    dims = operation.name[-2:]
    kernel, stride = _windows(operation)
    pool = functional.avg_pool2d if operation.name.startswith("max") else functional.max_pool2d
    pool = getattr(functional, pool.__name__.replace("2d", dims))
    return pool(operation.get("input"), kernel, stride, operation.get("padding", 0))


def _windows(operation: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    dims = int(operation.name[-2])
    kernel, stride = _tuple(operation.get("kernel_size"), dims), operation.get("stride")
    return kernel, _tuple(stride, dims) if stride not in (None, []) else kernel
