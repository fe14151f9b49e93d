"""Training continued in JAX equals training continued in torch, for an LSTM and for whole models and back."""

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
from jaxlstm import LSTMConfig, load, load_optimizer
from testing.optimizer_files import WholeModel, by_dimensions, data, reload, steps_in_jax, train

CONFIG = LSTMConfig(4, 4, batch_first=True, bidirectional=True, proj_size=2)


def assert_training_continues(
    model: WholeModel, optimizer: torch.optim.Optimizer, path: Path, **arguments: Any
) -> None:
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
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-12, atol=1e-12)


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
    params, config = load(tmp_path / "a.pt", batch_first=True, dropout=0.0)
    with pytest.warns(UserWarning, match="'trainer.optimizer_state_dict.0' has the learning rate 0.0"):
        state = load_optimizer(tmp_path / "a.pt", params, config)
    assert repr(state).startswith("OptimizerState(state of ")
    assert repr(state).endswith("1 groups, learning rate 0.0)")
    assert len(repr(state)) < 120


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


ROUND_TRIPS: dict[str, Callable[[WholeModel], Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.named_parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.1),
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True, weight_decay=0.1),
    "AdamW": lambda model: torch.optim.AdamW(by_dimensions(model, names=True), lr=0.01, weight_decay=0.2),
}


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield


def require_parameters(model: nn.Module, actual: dict[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(actual[name], parameter.detach().numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.quick("momentum", "AdamW")
@pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_flax_model_and_back(name: str, tmp_path: Path) -> None:
    theirs = WholeModel()
    optimizer = ROUND_TRIPS[name](theirs)
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
    restored = ROUND_TRIPS[name](again)
    restored.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    train(theirs, optimizer, range(6, 9))
    train(again, restored, range(6, 9))
    require_parameters(theirs, {name: p.detach().numpy() for name, p in again.named_parameters()})


def test_a_program(tmp_path: Path) -> None:
    theirs = WholeModel()
    optimizer = ROUND_TRIPS["momentum"](theirs)
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
    optimizer = ROUND_TRIPS["Adam"](theirs)
    train(theirs, optimizer, range(1))
    write(path, theirs, optimizer)
    ours = Ours()
    opt = jaxlstm.load_optimizer(path, ours, names=NAMES)

    def save(opt: Any, **kwargs: Any) -> None:
        jaxlstm.save_optimizer(tmp_path / "o.pt", ours, opt, names=NAMES, **kwargs)

    (group,) = opt.groups
    fewer = {**group, "param_names": group["param_names"][1:]}
    plain = {**group, "amsgrad": False}
    other = {name: value for name, value in group.items() if name != "betas"}
    lone = nn.LSTMCell(3, 4)
    alone = torch.optim.Adam(lone.parameters())
    torch.save({"m": lone.state_dict(), "o": alone.state_dict()}, tmp_path / "cell.pt")
    sizes = jaxlstm.LSTMConfig(1, 2)
    small = jaxlstm.init_params(jax.random.key(0), sizes)
    cell = nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0))
    frozen = torch.optim.Adam(theirs.rnn.parameters())
    frozen.step()
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: jaxlstm.load_optimizer(path, ours), "conv.weight: the source has no such tensor"),
        (lambda: jaxlstm.load_optimizer(tmp_path / "cell.pt", cell), "the sum of bias_ih and bias_hh"),
        (lambda: jaxlstm.load_optimizer(tmp_path / "cell.pt", small, sizes), "not have the shapes of"),
        (lambda: save(opt.state), "groups must have the names of all parameters"),
        (lambda: save(opt, groups=[fewer]), "missing: cnn.0.weight"),
        (lambda: save(optax.sgd(0.1).init({})), "groups must have the names"),
        (lambda: save(optax.sgd(0.1).init({}), groups=opt.groups), "must have the moments exp_avg,"),
        (lambda: save(optax.adam(0.1).init({"x": jnp.ones(2)}), groups=opt.groups), "got one of 'x'"),
        (lambda: save(opt, groups=[other]), "hyperparameters of SGD, Adam or AdamW"),
        (lambda: save(opt, groups=[plain]), "got exp_avg, exp_avg_sq, max_exp"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
    write(path, theirs, frozen)
    with pytest.raises(ValueError, match="does not train"):
        jaxlstm.load_optimizer(path, ours, names=NAMES)
    assert not (tmp_path / "o.pt").exists()
