"""Training continued in JAX equals training continued in torch: 20 steps give the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import LSTMConfig, load, load_optimizer
from testing.optimizer_files import WholeModel, by_dimensions, reload, steps_in_jax, train

CONFIG = LSTMConfig(4, 4, batch_first=True, bidirectional=True, proj_size=2)


def assert_training_continues(
    model: WholeModel, optimizer: torch.optim.Optimizer, path: Path, rtol: float = 1e-12, **arguments: Any
) -> None:
    with jax.enable_x64(True):
        params, config = load(path, batch_first=True, dropout=0.0)
        assert config == CONFIG
        opt = load_optimizer(path, params, config, **arguments)
        steps = range(100, 120)
        ours, _ = steps_in_jax(lambda p, x: jaxlstm.lstm(p, x, config=CONFIG)[0], params, opt, steps)
        lstm = model.rnn["lstm"]
        train(lambda x: lstm(x)[0], optimizer, steps)
        for name, start in params.items():
            theirs = getattr(lstm, name).detach().numpy()
            assert np.abs(theirs - start).max() > 1e-4  # the steps are not negligible
            np.testing.assert_allclose(ours[name], theirs, rtol=rtol, atol=rtol)


def write(path: Path, model: WholeModel, optimizer: torch.optim.Optimizer) -> None:
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
    "Adam-L2": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    "Adam-maximize": lambda p: torch.optim.Adam(p, lr=0.001, maximize=True, weight_decay=0.1),
    "Adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "Adam-tensor-lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01, dtype=torch.float64)),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "AdamW-amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, eps=1e-4),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "SGD-momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "SGD-nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
    "SGD-dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.4),
    "SGD-maximize": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.5, maximize=True, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.001, eps=1e-2, weight_decay=0.1),
    "RMSprop-momentum": lambda p: torch.optim.RMSprop(p, lr=0.001, alpha=0.9, momentum=0.8),
    "RMSprop-centered": lambda p: torch.optim.RMSprop(p, lr=0.001, centered=True, momentum=0.5),
}


@pytest.mark.parametrize(("name", "steps"), [*((name, 7) for name in OPTIMIZERS), ("SGD-momentum", 0)])
def test_training_continues(name: str, steps: int, tmp_path: Path) -> None:
    """An optimizer continues after some steps, or begins with the first."""
    model = WholeModel()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, range(steps))
    write(tmp_path / "c.pt", model, optimizer)
    assert_training_continues(model, optimizer, tmp_path / "c.pt")


@pytest.mark.parametrize("source", ["param_names", "names"])
def test_groups_with_different_hyperparameters(source: str, tmp_path: Path) -> None:
    model = WholeModel()
    groups = by_dimensions(model, names=source == "param_names")
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    train(model, optimizer, range(5))
    write(tmp_path / "c.pt", model, optimizer)
    if source == "param_names":
        assert_training_continues(model, optimizer, tmp_path / "c.pt")
        return
    ids = {id(p): name for name, p in model.named_parameters()}
    names = [ids[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert_training_continues(model, optimizer, tmp_path / "c.pt", names=names)
    with pytest.raises(ValueError, match="has 24 parameters, but there are 23 different names"):
        reload(tmp_path / "c.pt", names=names[1:])


def test_adam_and_adamw_before_torch_2_7(tmp_path: Path) -> None:
    for make in (torch.optim.Adam, torch.optim.AdamW):
        model = WholeModel()
        optimizer = make(model.parameters(), lr=0.01, weight_decay=0.3)
        train(model, optimizer, range(3))
        state = optimizer.state_dict()
        del state["param_groups"][0]["decoupled_weight_decay"]
        torch.save({"m": model.state_dict(), "o": state}, tmp_path / "c.pt")
        with pytest.raises(ValueError, match="does not record whether it is Adam or AdamW"):
            reload(tmp_path / "c.pt")
        adamw = make is torch.optim.AdamW
        assert_training_continues(model, optimizer, tmp_path / "c.pt", decoupled_weight_decay=adamw)
        write(tmp_path / "c.pt", model, optimizer)
        with pytest.raises(ValueError, match=f"has decoupled_weight_decay={adamw} in the file"):
            reload(tmp_path / "c.pt", decoupled_weight_decay=not adamw)


def test_a_finished_schedule(tmp_path: Path) -> None:
    """Updates of zero are announced, and the state is shown in one line."""
    model = WholeModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    train(lambda x: model.rnn["lstm"](x)[0], optimizer, range(2))
    write(tmp_path / "a.pt", model, optimizer)
    with jax.enable_x64(True):
        params, config = load(tmp_path / "a.pt", batch_first=True, dropout=0.0)
        with pytest.warns(UserWarning, match="'trainer.optimizer_state_dict.0' has the learning rate 0.0"):
            state = load_optimizer(tmp_path / "a.pt", params, config)
    assert repr(state).startswith("OptimizerState(state of ")
    assert repr(state).endswith("1 groups, learning rate 0.0)")
    assert len(repr(state)) < 120
