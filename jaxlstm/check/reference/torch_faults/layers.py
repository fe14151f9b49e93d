"""Faults of activations, normalizations, linear layers, convolutions, pooling, and changes of shape."""

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
    from torch.nn import functional

    return Variant(words, lambda op: getattr(functional, name)(op.get("input"), **options))


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
    if operation.name == "sigmoid":
        yield Variant("{where} is 1 - sigmoid, as a gate used the other way round", lambda op: 1 - op.run())
        for shift in (1, -1):
            cause = f"{{where}} has {shift} added to its input, as a forget bias"
            yield Variant(cause, lambda op, shift=shift: op.run(input=op.get("input") + shift))
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
    dim, ndim = operation.get("dim"), operation.get("input").ndim
    yield missing()
    yield _instead(f"{{where}} is {other} instead of {operation.name}", other, dim=dim)
    for axis in range(ndim):
        if axis != dim % ndim:
            yield _instead(f"{{where}} is over axis {axis} instead of {dim}", operation.name, dim=axis)


@faults_of("indexing")
def indexing(operation: Operation) -> Iterator[Variant]:
    """Yield the index of the other end of an axis."""
    index = operation.get("index")
    parts = index if isinstance(index, tuple) else (index,)
    for position, part in enumerate(parts):
        if type(part) is int:
            mirrored = (*parts[:position], -1 - part, *parts[position + 1 :])
            cause = f"{{where}} is {_index(mirrored)} instead of {_index(parts)}"
            yield Variant(cause, partial(_from_other_end, position=position))


def _from_other_end(operation: Operation, *, position: int) -> Any:
    index = operation.get("index")
    parts = list(index) if isinstance(index, tuple) else [index]
    parts[position] = -1 - parts[position]
    return operation.run(index=tuple(parts))


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
        # The place of an axis of size 1 does not change the order of the values.
        long = [axis for axis in axes if source[axis] > 1]
        for order in itertools.permutations(axes):
            if [axis for axis in order if axis in long] != long:
                cause = f"{{where}} merges axes {_axes(axes)} in the order {_axes(order)}"
                yield Variant(cause, partial(_merge, axes=axes, order=order))


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
    if operation.get("bias") is not None:
        yield changed("{where} has its bias twice", bias=2 * operation.get("bias"))
    if outputs == inputs and not sizes:
        yield _with_weight("the weight of {where} is transposed", lambda w: w.mT)
    if any(size > 1 for size in sizes):
        axes = tuple(range(2, 2 + len(sizes)))
        yield _with_weight("the weight of {where} is flipped along its spatial axes", lambda w: w.flip(axes))
    if len(sizes) > 1 and len(set(sizes)) == 1:
        cause = "the height and width of the weight of {where} are swapped"
        yield _with_weight(cause, lambda w: w.transpose(2, 3))


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
    ceil = not operation.get("ceil_mode", False)
    yield changed(f"{{where}} has ceil_mode={ceil} instead of {not ceil}", ceil_mode=ceil)
    yield missing()


def _same(operation: Operation, count: bool = False) -> torch.Tensor:
    """Pool with the padding of XLA's SAME."""
    from torch.nn.functional import pad

    dims = int(operation.name[-2])
    kernel, stride = _tuple(operation.get("kernel_size"), dims), operation.get("stride")
    stride = _tuple(stride, dims) if stride not in (None, []) else kernel
    x, is_max = operation.get("input"), operation.name.startswith("max")
    pads = same_pads(x.shape[-len(kernel) :], kernel, stride, (1,) * len(kernel))

    def pooled(x: torch.Tensor) -> Any:
        padded = pad(x, pads, value=-float("inf") if is_max else 0.0)
        return operation.run(input=padded, padding=0, ceil_mode=False)

    return pooled(x) if is_max or count else pooled(x) / pooled(x * 0 + 1)
