"""``torch.nn.LSTM``, eager; on an NVIDIA GPU where that is measured, which is cuDNN's LSTM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.utils import rnn

from jaxlstm.bench.setting import Setting
from jaxlstm.bench.side import Side, Unsupported
from jaxlstm.bench.sizes import Problem

Forward = Callable[[torch.Tensor], torch.Tensor]


class Place(NamedTuple):
    """Where torch computes, and what waits until it has."""

    device: str
    wait: Callable[[], None]


def place(device: str) -> Place:
    """torch's place for a device of the bench.

    Raises:
      Unsupported: torch has none.
    """
    if device == "cpu":
        return Place("cpu", lambda: None)
    if not torch.cuda.is_available():
        raise Unsupported(f"sees no CUDA device (torch {torch.__version__})")
    return Place("cuda", torch.cuda.synchronize)


def side(
    problem: Problem, setting: Setting, wrap: Callable[[Forward], Forward] | None = None
) -> Side:
    """The module, over a packed sequence if ragged; ``wrap`` may exchange what is called.

    The number of threads is that of the whole process, and stays.
    """
    device, wait = place(setting.device)
    torch.set_num_threads(setting.threads)
    module = _module(problem).to(device)
    x = torch.from_numpy(problem.inputs).to(device)
    x_with_gradient = x.clone().requires_grad_()
    names = [name for name, _ in module.named_parameters()]
    leaves = [x_with_gradient, *module.parameters()]
    lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths).long()

    def call(x: torch.Tensor) -> torch.Tensor:
        if lengths is None:
            return module(x)[0]
        packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(module(packed)[0], total_length=len(x))[0]

    forward = call if wrap is None else wrap(call)

    def infer() -> torch.Tensor:
        with torch.inference_mode():
            outputs = forward(x)
        wait()
        return outputs

    def train() -> tuple[Any, Any]:
        inputs, *weights = torch.autograd.grad(forward(x_with_gradient).square().sum(), leaves)
        wait()
        return inputs, dict(zip(names, weights, strict=True))

    return Side(infer, train)


def _module(problem: Problem) -> torch.nn.LSTM:
    config = problem.config
    module = torch.nn.LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        bias=config.bias,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
    )
    module.load_state_dict({name: torch.from_numpy(a) for name, a in problem.params.items()})
    return module
