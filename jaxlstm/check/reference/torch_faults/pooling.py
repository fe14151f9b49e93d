"""Faults of pooling: strides, padding, and the elements that an average counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxlstm.check.reference.torch_faults.layers import same_pads
from jaxlstm.check.reference.torch_faults.operation import Operation, Variant

if TYPE_CHECKING:
    import torch


def pooling(operation: Operation) -> Iterator[Variant]:
    """Yield faults of a max or average pooling."""
    is_max = operation.name.startswith("max")
    for stride in (1, 2):
        yield Variant(f"the stride of {{where}} is {stride}", lambda op, stride=stride: op.run(stride=stride))
    yield Variant("{where} has no padding", lambda op: op.run(padding=0))
    yield Variant("{where} pads as SAME does, without counting the padding", _same)
    if not is_max:
        yield Variant("{where} pads as SAME does and counts the padding", lambda op: _same(op, count=True))
        counts = operation.get("count_include_pad", True)
        yield Variant(
            "{where} " + ("does not count the padding" if counts else "counts the padding"),
            lambda op: op.run(count_include_pad=not counts),
        )
    ceil = operation.get("ceil_mode", False)
    yield Variant(
        f"{{where}} has ceil_mode={not ceil} instead of {ceil}", lambda op: op.run(ceil_mode=not ceil)
    )
    other = "average" if is_max else "maximum"
    yield Variant(f"{{where}} takes the {other}", _other_kind)
    yield Variant("{where} is missing", lambda op: op.get("input"))


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

    def windows(value: Any) -> tuple[int, ...]:
        return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)

    kernel = windows(operation.get("kernel_size"))
    stride = operation.get("stride")
    return kernel, windows(stride) if stride not in (None, []) else kernel
