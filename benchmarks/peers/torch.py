"""``torch.nn.LSTM``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils import rnn

from benchmarks.parts import Settings
from benchmarks.problems import Implementation, Problem
from jaxlstm.layer.config import LSTMConfig


def module(params: Mapping[str, np.ndarray], config: LSTMConfig) -> torch.nn.LSTM:
    """Return a time-major ``torch.nn.LSTM`` with the given parameters."""
    sizes = (config.input_size, config.hidden_size, config.num_layers, config.bias)
    result = torch.nn.LSTM(*sizes, bidirectional=config.bidirectional, proj_size=config.proj_size)
    result.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in params.items()})
    return result


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Run the module, over a packed sequence if ragged. Sets the number of threads of the whole process."""
    torch.set_num_threads(settings.threads)
    dtype = getattr(torch, problem.dtype)
    lstm = module(problem.params, problem.config).to(dtype)
    x = torch.from_numpy(problem.inputs).to(dtype)
    x_with_gradient = x.clone().requires_grad_()
    names = [name for name, _ in lstm.named_parameters()]
    leaves = [x_with_gradient, *lstm.parameters()]
    lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths).long()

    def forward(x: torch.Tensor) -> torch.Tensor:
        if lengths is None:
            return lstm(x)[0]
        packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(lstm(packed)[0], total_length=len(x))[0]

    def infer() -> torch.Tensor:
        with torch.inference_mode():
            return forward(x)

    def train() -> tuple[Any, Any]:
        inputs, *weights = torch.autograd.grad(forward(x_with_gradient).square().sum(), leaves)
        return inputs, dict(zip(names, weights, strict=True))

    return Implementation(infer, train)


def step(problem: Problem, settings: Settings) -> Callable[[], np.ndarray]:
    """Return a step of a stream, which keeps its state. Sets the number of threads of the whole process."""
    torch.set_num_threads(settings.threads)
    lstm, state = module(problem.params, problem.config).eval(), None

    def call() -> np.ndarray:
        nonlocal state
        with torch.inference_mode():
            y, state = lstm(torch.from_numpy(problem.inputs), state)
        return y[0].numpy()

    return call
