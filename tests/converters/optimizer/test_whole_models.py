"""Whole models: training that goes from torch to JAX and back equals training in torch."""

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
from flax import nnx
from torch import nn

import jaxlstm
from testing.optimizer_files import WholeModel, by_dimensions, data, steps_in_jax, train

Optimizer = torch.optim.Optimizer
NAMES = {"cnn.0": "conv", "rnn.lstm": "lstm", "rnn.gru": "gru"}


def attention(query: Any, key: Any, value: Any, **_: Any) -> Any:
    """Return dot-product attention in the dtype of its arguments; Flax's has a softmax in float32."""
    weights = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(weights), value)


class Ours(nnx.Module):
    """The same model in Flax."""

    def __init__(self) -> None:
        kwargs: dict[str, Any] = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
        self.conv = nnx.Conv(4, 4, 3, padding=1, **kwargs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, epsilon=1e-5, momentum=0.9, **kwargs)
        self.lstm = jaxlstm.nnx.LSTM(4, 4, batch_first=True, bidirectional=True, proj_size=2, **kwargs)
        self.gru = jaxlstm.nnx.GRU(4, 4, batch_first=True, **kwargs)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, attention_fn=attention, **kwargs)
        self.head = nnx.Linear(4, 2, **kwargs)

    def __call__(self, x: Any) -> Any:
        y = self.gru(self.lstm(self.norm(self.conv(x)))[0])[0]
        return self.head(self.attention(y))


OPTIMIZERS: dict[str, Callable[[WholeModel], Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.named_parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.1),
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True, weight_decay=0.1),
    "AdamW": lambda model: torch.optim.AdamW(by_dimensions(model, names=True), lr=0.01, weight_decay=0.2),
}


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield


def write(path: Path, model: WholeModel, optimizer: Optimizer) -> None:
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


def require_parameters(model: nn.Module, actual: dict[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(actual[name], parameter.detach().numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_flax_model_and_back(name: str, tmp_path: Path) -> None:
    theirs = WholeModel()
    optimizer = OPTIMIZERS[name](theirs)
    train(theirs, optimizer, range(3))
    write(tmp_path / "c.pt", theirs, optimizer)

    ours = Ours()
    jaxlstm.load_state_dict(ours, tmp_path / "c.pt", names=NAMES)
    opt = jaxlstm.load_optimizer(tmp_path / "c.pt", ours, names=NAMES)
    graph, params, rest = nnx.split(ours, nnx.Param, ...)
    params, opt = steps_in_jax(lambda p, x: nnx.merge(graph, p, rest)(x), params, opt, range(3, 6))
    nnx.update(ours, params)
    jaxlstm.save_optimizer(tmp_path / "o.pt", ours, opt, names=NAMES)
    with pytest.raises(FileExistsError):
        jaxlstm.save_optimizer(tmp_path / "c.pt", ours, opt, names=NAMES)

    train(theirs, optimizer, range(3, 6))
    require_parameters(theirs, jaxlstm.state_dict(ours, names=NAMES))
    again = WholeModel()
    again.load_state_dict(jaxlstm.state_dict(ours, names=NAMES))
    restored = OPTIMIZERS[name](again)
    restored.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    train(theirs, optimizer, range(6, 9))
    train(again, restored, range(6, 9))
    require_parameters(theirs, {name: p.detach().numpy() for name, p in again.named_parameters()})


def test_a_program(tmp_path: Path) -> None:
    theirs = WholeModel()
    optimizer = OPTIMIZERS["momentum"](theirs)
    train(theirs, optimizer, range(3))
    write(tmp_path / "c.pt", theirs, optimizer)
    program = jaxlstm.from_module(theirs, (torch.from_numpy(data(0)),))
    opt = jaxlstm.load_optimizer(tmp_path / "c.pt", program)
    params, opt = steps_in_jax(program, program.params, opt, range(3, 6))
    train(theirs, optimizer, range(3, 6))
    require_parameters(theirs, params)
    jaxlstm.save_optimizer(tmp_path / "o.pt", program, opt)
    saved = torch.load(tmp_path / "o.pt", weights_only=True)["state"]
    for number, fields in optimizer.state_dict()["state"].items():
        torch.testing.assert_close(saved[number]["momentum_buffer"], fields["momentum_buffer"])


def test_training_that_begins_in_jax(tmp_path: Path) -> None:
    """A state of optax's own optimizer, with the groups of a torch optimizer; an LSTM under its own names."""
    theirs = nn.LSTM(4, 4).double()
    optimizer = torch.optim.Adam(theirs.named_parameters(), lr=0.01)
    params, config = jaxlstm.from_torch(theirs, batch_first=False)
    adam = optax.adam(0.01)
    gradient = jax.grad(lambda params: (jaxlstm.lstm(params, data(0), config=config)[0] ** 2).sum())
    _, state = adam.update(gradient(params), adam.init(params), params)
    groups = optimizer.state_dict()["param_groups"]
    jaxlstm.save_optimizer(tmp_path / "o.pt", params, state, groups=groups)
    optimizer.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    restored = torch.optim.Adam(theirs.parameters(), lr=0.01)
    (theirs(torch.from_numpy(data(0)))[0] ** 2).sum().backward()
    restored.step()
    for parameter in theirs.parameters():
        ours, wanted = optimizer.state[parameter], restored.state[parameter]
        assert ours["step"] == wanted["step"] == 1
        torch.testing.assert_close(ours["exp_avg_sq"], wanted["exp_avg_sq"])


def test_refused(tmp_path: Path) -> None:
    path, theirs = tmp_path / "c.pt", WholeModel()
    optimizer = OPTIMIZERS["Adam"](theirs)
    train(theirs, optimizer, range(1))
    write(path, theirs, optimizer)
    ours = Ours()
    opt = jaxlstm.load_optimizer(path, ours, names=NAMES)

    def save(opt: Any, **kwargs: Any) -> None:
        jaxlstm.save_optimizer(tmp_path / "o.pt", ours, opt, names=NAMES, **kwargs)

    (group,) = opt.groups
    fewer = {**group, "param_names": group["param_names"][1:]}
    plain = {**group, "amsgrad": False}
    lone = nn.LSTMCell(3, 4)
    alone = torch.optim.Adam(lone.parameters())
    torch.save({"m": lone.state_dict(), "o": alone.state_dict()}, tmp_path / "cell.pt")
    cell = nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0))
    frozen = torch.optim.Adam(theirs.rnn.parameters())
    frozen.step()
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: jaxlstm.load_optimizer(path, ours), "conv.weight: the source has no such tensor"),
        (lambda: jaxlstm.load_optimizer(tmp_path / "cell.pt", cell), "the sum of bias_ih and bias_hh"),
        (lambda: save(opt.state), "groups must have the names of all parameters"),
        (lambda: save(opt, groups=[fewer]), "missing: cnn.0.weight"),
        (lambda: save(optax.sgd(0.1).init({})), "groups must have the names"),
        (lambda: save(optax.sgd(0.1).init({}), groups=opt.groups), "must have the moments exp_avg,"),
        (lambda: save(opt, groups=[plain]), "got exp_avg, exp_avg_sq, max_exp"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
    write(path, theirs, frozen)
    with pytest.raises(ValueError, match="does not train"):
        jaxlstm.load_optimizer(path, ours, names=NAMES)
    assert not (tmp_path / "o.pt").exists()
