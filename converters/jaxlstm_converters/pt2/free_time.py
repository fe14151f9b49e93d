"""`free_time`: exports in which the length of the sequences of LSTMs, GRUs and RNNs is free.

torch traces these layers as loops over a fixed number of steps, and fixes the length in ``max_pool1d``,
although the exported graph holds each as one node. Only the shapes of its results are needed for that.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def free_time() -> Iterator[None]:
    """Let torch compute the shapes of these layers without their loops where it traces with fake tensors."""
    import torch

    key: Any = torch._C.DispatchKey.CompositeImplicitAutograd
    aten = torch.ops.aten
    layers = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
    kernels = {op: op.py_kernels.get(key) for op in (*layers, aten.max_pool1d.default)}
    try:
        for op in layers:
            _set_kernel(op, key, functools.partial(_shapes, op.py_kernels[key]))
        _set_kernel(aten.max_pool1d.default, key, _max_pool1d)
        yield
    finally:
        for op, kernel in kernels.items():
            _set_kernel(op, key, kernel)


def _set_kernel(op: Any, key: Any, kernel: Callable[..., Any] | None) -> None:
    if kernel is None:
        del op.py_kernels[key]
    else:
        op.py_kernels[key] = kernel
    op._dispatch_cache.clear()  # It would undo the change.


def _max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """Return the tensor pooled by ``max_pool2d``."""
    import torch

    def in_2d(value: Any, of_height: int) -> list[int]:
        return [of_height, value if isinstance(value, int) else value[0]]

    sizes = (in_2d(kernel_size, 1), in_2d(stride or kernel_size, 1), in_2d(padding, 0), in_2d(dilation, 1))
    return torch.max_pool2d(input.unsqueeze(-2), *sizes, bool(ceil_mode)).squeeze(-2)


def _shapes(
    kernel: Callable[..., Any], input: Any, hx: Any, params: Any, has_biases: bool, *settings: Any
) -> tuple[Any, ...]:
    """Return tensors with the shapes of a layer's results, which depend on its input, state and weights."""
    import torch
    from torch._subclasses.fake_tensor import is_fake

    if not is_fake(input):
        return kernel(input, hx, params, has_biases, *settings)
    _, _, _, bidirectional, batch_first = settings
    states = [hx] if isinstance(hx, torch.Tensor) else hx
    one = torch.nn.functional.linear(input, params[0])[..., : states[0].shape[2]]
    outputs = torch.cat([one, one] if bidirectional else [one], -1)
    # The sum over time and features has a size of the batch, which must be that of the states.
    dependent = outputs.sum((1 if batch_first else 0, 2))[:, None]
    return outputs, *(state + dependent for state in states)
