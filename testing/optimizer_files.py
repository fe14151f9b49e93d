"""Models and torch optimizers for checkpoints, which are loaded, and trained in torch and in JAX."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch
from torch import nn

from jaxlstm import OptimizerState, load, load_optimizer


def write(path: Path, model: torch.nn.Module, *optimizers: Any) -> None:
    """Save a model at "m" and the state dicts of its optimizers at "o.0", "o.1" and so on."""
    torch.save({"m": model.state_dict(), "o": list(optimizers)}, path)


def reload(path: Path, **arguments: Any) -> Any:
    """Load the optimizer of an LSTM in a file, in the stored dtype."""
    with jax.enable_x64(True):
        params, config = load(path, prefix=arguments.get("prefix"), batch_first=False, dropout=0.0)
        return load_optimizer(path, params, config, **arguments)


def stepped(
    modules: list[torch.nn.Module] | None = None,
    make: Any = torch.optim.Adam,
    groups: list[dict[str, Any]] | None = None,
    **arguments: Any,
) -> Any:
    """Return the state dict of an optimizer after a step with random gradients."""
    optimizer = make(groups or [p for m in modules or [] for p in m.parameters()], **arguments)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    optimizer.step()
    return optimizer.state_dict()


def moments(opt: Any, name: str, field: str = "mu") -> np.ndarray:
    return np.asarray(optax.tree_utils.tree_get(opt.state, field)[name])


class WholeModel(nn.Module):
    """Convolution, normalization, recurrent layers, attention and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1))
        self.norm = nn.BatchNorm1d(4)
        lstm = nn.LSTM(4, 4, batch_first=True, bidirectional=True, proj_size=2)
        self.rnn = nn.ModuleDict({"lstm": lstm, "gru": nn.GRU(4, 4, batch_first=True)})
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)
        self.double().eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.cnn(x.transpose(1, 2))).transpose(1, 2)
        y = self.rnn["gru"](self.rnn["lstm"](y)[0])[0]
        return self.head(self.attention(y, y, y)[0])


def data(step: int) -> np.ndarray:
    return np.random.default_rng(step).standard_normal((2, 5, 4))


def train(
    run: Callable[[torch.Tensor], torch.Tensor], optimizer: torch.optim.Optimizer, steps: range
) -> None:
    """Take steps with the gradients of a function of the data."""
    for step in steps:
        optimizer.zero_grad()
        ((run(torch.from_numpy(data(step))) - 1) ** 2).mean().backward()
        optimizer.step()


def steps_in_jax(
    run: Callable[[Any, Any], Any], params: Any, opt: OptimizerState, steps: range
) -> tuple[Any, OptimizerState]:
    """Take the steps of `train`, and return parameters and optimizer."""
    gradient = jax.jit(jax.grad(lambda params, x: ((run(params, x) - 1) ** 2).mean()))
    state = opt.state
    for step in steps:
        updates, state = opt.transform.update(gradient(params, data(step)), state, params)
        params = optax.apply_updates(params, updates)
    return params, opt._replace(state=state)


def by_dimensions(model: nn.Module, *, names: bool) -> list[dict[str, Any]]:
    """Return groups, not in the order of the model: vectors, matrices with weight decay, and the head."""
    named = [(n, p) if names else p for n, p in model.named_parameters()]
    tensors = [p for _, p in model.named_parameters()]
    flat = [n for n, p in zip(named, tensors, strict=True) if p.ndim == 1]
    matrices = [n for n, p in zip(named, tensors, strict=True) if p.ndim > 1]
    return [
        {"params": flat, "weight_decay": 0.0, "name": "flat"},
        {"params": matrices[:-1], "weight_decay": 0.3},
        {"params": matrices[-1:], "lr": 0.5},
    ]
