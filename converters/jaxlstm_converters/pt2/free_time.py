"""`free_time`: exports in which the length of the sequences of LSTMs, GRUs and RNNs is free.

torch traces these layers as loops over a fixed number of steps, although the exported graph holds each layer
as one node. Only the shapes of its results are needed for that.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def free_time() -> Iterator[None]:
    """Let torch compute only the shapes of recurrent layers where it traces with fake tensors."""
    import torch

    key: Any = torch._C.DispatchKey.CompositeImplicitAutograd
    aten = torch.ops.aten
    ops = [aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input]
    kernels = [op.py_kernels[key] for op in ops]
    try:
        for op, kernel in zip(ops, kernels, strict=True):
            _set_kernel(op, key, functools.partial(_shapes, kernel))
        yield
    finally:
        for op, kernel in zip(ops, kernels, strict=True):
            _set_kernel(op, key, kernel)


def _set_kernel(op: Any, key: Any, kernel: Callable[..., Any]) -> None:
    op.py_kernels[key] = kernel
    op._dispatch_cache.clear()  # It would undo the change.


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
