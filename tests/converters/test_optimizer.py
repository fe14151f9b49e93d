"""Training that starts in torch goes on in JAX: 20 more steps in both give the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxlstm
from jaxlstm import LSTMConfig, load, load_optimizer
from tests.wheels import fetch_pinned

CONFIG = LSTMConfig(3, 4, num_layers=2, bidirectional=True, proj_size=2)
PREFIX = "encoder.lstm."


class Model(torch.nn.Module):
    """An LSTM amid other parameters and buffers, some of the shapes of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.similarity = torch.nn.Parameter(torch.randn(16))
        self.inputs = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.BatchNorm1d(16))
        self.encoder = torch.nn.ModuleDict(
            {"lstm": torch.nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)}
        )
        self.norm = torch.nn.BatchNorm1d(16)
        self.head = torch.nn.Linear(4, 16)
        self.double()

    @property
    def lstm(self) -> Any:
        return self.encoder["lstm"]

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = self.lstm(x)[0]
        end = self.norm(self.head(out[-1])) * self.similarity
        return ((out - y) ** 2).mean() + (end**2).mean() + (self.inputs(x[0]) ** 2).mean()


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6, 5, 3)), rng.standard_normal((6, 5, 4))


def train(model: Model, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        x, y = (torch.from_numpy(a) for a in data(step))
        model.loss(x, y).backward()
        optimizer.step()


def go_on_in_torch(model: Model, optimizer: torch.optim.Optimizer, steps: int) -> dict[str, Any]:
    """Steps in which the LSTM alone has gradients."""
    for step in range(steps):
        optimizer.zero_grad()
        x, y = (torch.from_numpy(a) for a in data(100 + step))
        ((model.lstm(x)[0] - y) ** 2).mean().backward()
        optimizer.step()
    return {name: p.detach().numpy() for name, p in model.lstm.named_parameters()}


def go_on_in_jax(params: Any, config: LSTMConfig, opt: Any, steps: int) -> dict[str, Any]:
    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> Any:
            return ((jaxlstm.lstm(params, x, config=config)[0] - y) ** 2).mean()

        updates, state = opt.transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = opt.state
    for k in range(steps):
        params, state = step(params, state, *data(100 + k))
    return params


def assert_goes_on(
    model: Model,
    optimizer: torch.optim.Optimizer,
    path: Path,
    rtol: float = 1e-12,
    **arguments: Any,
) -> None:
    with jax.enable_x64(True):
        params, config = load(path)
        assert config == CONFIG
        opt = load_optimizer(path, params, config, **arguments)
        ours = go_on_in_jax(params, config, opt, 20)
        theirs = go_on_in_torch(model, optimizer, 20)
        for name, start in params.items():
            assert np.abs(theirs[name] - start).max() > 1e-4  # it did train
            np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, atol=rtol)


def write(path: Path, model: Model, optimizer: torch.optim.Optimizer) -> None:
    torch.save(
        {
            "epoch": 3,
            "hparams": {"lr": 7.0, "names": ["a", None]},
            "trainer": {"optimizer_state_dict": [optimizer.state_dict()]},
            "model_state": model.state_dict(),
        },
        path,
    )


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam-L2": lambda p: torch.optim.Adam(
        p, lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1
    ),
    "Adam-maximize": lambda p: torch.optim.Adam(p, lr=0.001, maximize=True, weight_decay=0.1),
    "Adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "Adam-tensor-lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01, dtype=torch.float64)),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "AdamW-amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, eps=1e-4),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "SGD-momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "SGD-nesterov": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.01
    ),
    "SGD-dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.4),
    "SGD-maximize": lambda p: torch.optim.SGD(
        p, lr=0.001, momentum=0.5, maximize=True, weight_decay=0.1
    ),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.001, eps=1e-2, weight_decay=0.1),
    "RMSprop-momentum": lambda p: torch.optim.RMSprop(p, lr=0.001, alpha=0.9, momentum=0.8),
    "RMSprop-centered": lambda p: torch.optim.RMSprop(p, lr=0.001, centered=True, momentum=0.5),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on(make: Callable[[Any], torch.optim.Optimizer], tmp_path: Path) -> None:
    model = Model()
    optimizer = make(model.parameters())
    train(model, optimizer, 7)
    write(tmp_path / "c.pt", model, optimizer)
    assert_goes_on(model, optimizer, tmp_path / "c.pt")
