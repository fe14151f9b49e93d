"""Training that starts in torch goes on in JAX: 20 more steps in both give the same parameters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlstm
from jaxlstm import LSTMConfig, load, load_optimizer
from jaxlstm_converters.parameter_order import places
from tests.wheels import fetch_pinned

CONFIG = LSTMConfig(3, 4, bidirectional=True, proj_size=2)
PREFIX = "encoder.lstm."


class Model(torch.nn.Module):
    """An LSTM amid other parameters and buffers, some of the shapes of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.similarity = torch.nn.Parameter(torch.randn(16))
        self.inputs = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.BatchNorm1d(16))
        self.encoder = torch.nn.ModuleDict(
            {"lstm": torch.nn.LSTM(3, 4, bidirectional=True, proj_size=2)}
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


@functools.partial(jax.jit, static_argnums=1)
def gradients(params: Any, config: LSTMConfig, x: Any, y: Any) -> Any:
    def loss(params: Any) -> Any:
        return ((jaxlstm.lstm(params, x, config=config)[0] - y) ** 2).mean()

    return jax.grad(loss)(params)


def go_on_in_jax(params: Any, config: LSTMConfig, opt: Any, steps: int) -> dict[str, Any]:
    update = jax.jit(opt.transform.update)
    state = opt.state
    for k in range(steps):
        grads = gradients(params, config, *data(100 + k))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
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


def test_an_optimizer_before_its_first_step(tmp_path: Path) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    write(tmp_path / "c.pt", model, optimizer)
    assert_goes_on(model, optimizer, tmp_path / "c.pt")


def by_dimensions(model: Model, *, names: bool) -> list[dict[str, Any]]:
    """Weight decay for matrices alone, and another learning rate for the head: groups not in order."""
    named = [(n, p) if names else p for n, p in model.named_parameters()]
    tensors = [p for _, p in model.named_parameters()]
    flat = [n for n, p in zip(named, tensors, strict=True) if p.ndim == 1]
    matrices = [n for n, p in zip(named, tensors, strict=True) if p.ndim == 2]
    return [
        {"params": flat, "weight_decay": 0.0, "name": "flat"},
        {"params": matrices[:-1], "weight_decay": 0.3},
        {"params": matrices[-1:], "lr": 0.5},
    ]


@pytest.mark.parametrize("how", ["param_names", "names"])
def test_groups_of_different_hyper_parameters(how: str, tmp_path: Path) -> None:
    model = Model()
    groups = by_dimensions(model, names=how == "param_names")
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    train(model, optimizer, 5)
    write(tmp_path / "c.pt", model, optimizer)
    if how == "param_names":
        assert_goes_on(model, optimizer, tmp_path / "c.pt")
        return
    ids = {id(p): name for name, p in model.named_parameters()}
    names = [ids[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert_goes_on(model, optimizer, tmp_path / "c.pt", names=names)
    with pytest.raises(ValueError, match="has 19 parameters, and there are 18 different names"):
        reload(tmp_path / "c.pt", names=names[1:])


def test_groups_without_names(tmp_path: Path) -> None:
    """Matrices and vectors in two groups: each is in order, and they can be laid out in one way only."""
    path = tmp_path / "c.pt"
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 20), torch.nn.LSTM(20, 5, 2), torch.nn.Linear(5, 20)
    )
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    state = stepped(groups=[{"params": vectors, "weight_decay": 0.0}, {"params": matrices}])
    torch.save({"m": model.state_dict(), "o": state}, path)
    opt = reload(path)
    where = {id(p): k for k, p in enumerate([*vectors, *matrices])}
    for name, p in model[1].named_parameters():
        ours = moments(opt, name)
        np.testing.assert_array_equal(ours, state["state"][where[id(p)]]["exp_avg"])
    lstm = list(model[1].parameters())  # both groups have (20,): which is whose cannot be told
    state = stepped(groups=[{"params": lstm[::2]}, {"params": lstm[1::2], "lr": 1.0}])
    torch.save({"m": model[1].state_dict(), "o": state}, path)
    with pytest.raises(
        ValueError, match=r"does not tell by order and shapes which .* 'm.bias_ih_l0'"
    ):
        reload(path)


def reload(path: Path, **arguments: Any) -> Any:
    """What load_optimizer gives for the only or the named LSTM of a file, as stored."""
    with jax.enable_x64(True):
        params, config = load(path, prefix=arguments.get("prefix"))
        return load_optimizer(path, params, config, **arguments)


def stepped(
    modules: list[torch.nn.Module] | None = None,
    make: Any = torch.optim.Adam,
    groups: list[dict[str, Any]] | None = None,
    **arguments: Any,
) -> Any:
    """The state dict of an optimizer that took a step with random gradients."""
    optimizer = make(groups or [p for m in modules or [] for p in m.parameters()], **arguments)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    optimizer.step()
    return optimizer.state_dict()


def moments(opt: Any, name: str, field: str = "mu") -> np.ndarray:
    return np.asarray(optax.tree_utils.tree_get(opt.state, field)[name])


def test_moments_are_the_bits_of_the_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    norm, lstm, head = torch.nn.BatchNorm1d(20), torch.nn.LSTM(3, 5), torch.nn.Linear(5, 20)
    after = torch.nn.BatchNorm1d(20)
    model = torch.nn.Sequential(norm, lstm, head, after)
    state = stepped([model])
    torch.save({"m": model.state_dict(), "o": state}, tmp_path / "c.pt")
    params, config = load(tmp_path / "c.pt")
    opt = load_optimizer(tmp_path / "c.pt", params, config)
    for k, name in enumerate(params, start=2):
        for ours, theirs in {"mu": "exp_avg", "nu": "exp_avg_sq"}.items():
            np.testing.assert_array_equal(moments(opt, name, ours), state["state"][k][theirs])
    assert int(optax.tree_utils.tree_get(opt.state, "count")) == 1
    half, config = load(tmp_path / "c.pt", dtype=jnp.bfloat16)
    opt = load_optimizer(tmp_path / "c.pt", half, config)
    assert moments(opt, "weight_ih_l0").dtype == jnp.bfloat16


def test_which_parameters_the_optimizer_has(tmp_path: Path) -> None:
    """All, the LSTM alone, the head alone, or another LSTM of the same shapes."""
    path = tmp_path / "c.pt"
    model = torch.nn.ModuleDict(
        {"head": torch.nn.Linear(5, 2), "a": torch.nn.LSTM(3, 5), "b": torch.nn.LSTM(3, 5)}
    )
    head, a, b = model["head"], model["a"], model["b"]

    def save(*optimizers: Any) -> None:
        torch.save({"m": model.state_dict(), "o": list(optimizers)}, path)

    state = stepped([model])
    save(state)
    for prefix, first in {"a": 2, "b": 6}.items():
        opt = reload(path, prefix=prefix)
        np.testing.assert_array_equal(
            moments(opt, "bias_hh_l0"), state["state"][first + 3]["exp_avg"]
        )
    save(stepped([head]))
    with pytest.raises(ValueError, match=r"the optimizer at 'o.0' does not train this LSTM"):
        reload(path, prefix="a")
    save(stepped([a]))
    with pytest.raises(ValueError, match=r"fits 'm.a.' and 'm.b.' alike; pass optimizer='o.0'"):
        reload(path, prefix="a")
    assert reload(path, prefix="a", optimizer="o.0")
    save(stepped([head, a]))
    with pytest.raises(ValueError, match="does not tell by order and shapes which of its param"):
        reload(path, prefix="a")
    one, other = stepped([a]), stepped([b])
    save(one, other)
    opt = reload(path, prefix="b", optimizer="o.1")
    np.testing.assert_array_equal(moments(opt, "bias_ih_l0"), other["state"][2]["exp_avg"])
    with pytest.raises(ValueError, match=r"no optimizer at 'p' in .* there are: 'o.0', 'o.1'"):
        reload(path, prefix="b", optimizer="p")
    save(stepped([model]), stepped([model], torch.optim.SGD, lr=0.1, momentum=0.9))
    with pytest.raises(ValueError, match=r"which optimizer trains this LSTM: 'o.0', 'o.1' can"):
        reload(path, prefix="b")


def test_frozen_parameters_and_wrappers_between(tmp_path: Path) -> None:
    """The optimizer has less than the state dict, and the order still tells."""
    lstm, head = torch.nn.LSTM(3, 5, 2), torch.nn.Linear(5, 2)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3), lstm, head)
    state = stepped([lstm, head])
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [state]}, tmp_path / "c.pt")
    opt = reload(tmp_path / "c.pt")
    np.testing.assert_array_equal(moments(opt, "weight_hh_l1"), state["state"][5]["exp_avg"])


def test_adam_before_torch_2_7_may_be_adamw(tmp_path: Path) -> None:
    for make in (torch.optim.Adam, torch.optim.AdamW):
        model = Model()
        optimizer = make(model.parameters(), lr=0.01, weight_decay=0.3)
        train(model, optimizer, 3)
        state = optimizer.state_dict()
        del state["param_groups"][0]["decoupled_weight_decay"]
        torch.save({"m": model.state_dict(), "o": state}, tmp_path / "c.pt")
        with pytest.raises(ValueError, match="is Adam or AdamW, which the file does not tell"):
            reload(tmp_path / "c.pt")
        adamw = make is torch.optim.AdamW
        assert_goes_on(model, optimizer, tmp_path / "c.pt", decoupled_weight_decay=adamw)
        write(tmp_path / "c.pt", model, optimizer)
        with pytest.raises(ValueError, match=f"has decoupled_weight_decay={adamw} in the file"):
            reload(tmp_path / "c.pt", decoupled_weight_decay=not adamw)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (torch.optim.Adagrad, "Adagrad"),
        (torch.optim.NAdam, "NAdam"),
        (torch.optim.RAdam, "RAdam"),
        (torch.optim.Adamax, "Adamax"),
        (torch.optim.Adadelta, "Adadelta"),
        (torch.optim.ASGD, "ASGD"),
        (torch.optim.Rprop, "Rprop"),
    ],
)
def test_other_optimizers_are_refused_by_name(make: Any, named: str, tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    torch.save({"m": lstm.state_dict(), "o": stepped([lstm], make)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=f"the optimizer at 'o' is .*{named}"):
        reload(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["param_groups"][0].update(trust=0.1), "that torch.optim has not"),
        (lambda s: s["state"][1].update(z=torch.ones(2)), "keeps z of weight_hh_l0"),
        (lambda s: s["state"][1].pop("exp_avg_sq"), "has no exp_avg_sq of weight_hh_l0"),
        (
            lambda s: s["state"][1].update(step=torch.tensor(4.0)),
            "different numbers of steps.*weight_ih_l0 1, weight_hh_l0 4",
        ),
        (lambda s: s["state"].pop(3), "different numbers of steps.*bias_hh_l0 0"),
        (lambda s: [v.update(step=1.5) for v in s["state"].values()], "wanted a whole number"),
        (
            lambda s: s["state"][1].update(exp_avg=torch.ones(20, 4)),
            "has 4 parameters, which do not fit the model's in order and shape",
        ),
        (
            lambda s: s["state"][1].update(exp_avg_sq=torch.ones(20, 4)),
            r"has exp_avg_sq of weight_hh_l0 with shape \(20, 4\), wanted \(20, 5\)",
        ),
        (
            lambda s: s["param_groups"][0].update(param_names=list("abcd")),
            "do not fit the model's in names",
        ),
        (lambda s: s.pop("param_groups"), "no optimizer in .*there are: none"),
    ],
)
def test_what_does_not_fit_is_said(change: Any, message: str, tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    state = stepped([lstm])
    change(state)
    torch.save({"m": lstm.state_dict(), "o": state}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=message):
        reload(tmp_path / "c.pt")


def test_dampening_before_the_first_step_is_refused(tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    optimizer = torch.optim.SGD(lstm.parameters(), momentum=0.9, dampening=0.5)
    torch.save({"m": lstm.state_dict(), "o": optimizer.state_dict()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="has dampening and no momentum_buffer of weight_ih_l0"):
        reload(tmp_path / "c.pt")


def test_weight_norm_and_wrong_configs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    lstm = torch.nn.LSTM(3, 5)
    torch.save({"m": lstm.state_dict(), "o": stepped([lstm])}, path)
    params, config = load(path)
    with pytest.raises(ValueError, match="params do not fit"):
        load_optimizer(path, params, LSTMConfig(3, 6))
    other = LSTMConfig(3, 6)
    with pytest.raises(ValueError, match=r"the LSTM at 'm.' has other shapes than"):
        load_optimizer(path, jaxlstm.init_params(jax.random.key(0), other), other)
    torch.nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    torch.save({"m": lstm.state_dict(), "o": stepped([lstm])}, path)
    params, config = load(path)
    with pytest.raises(ValueError, match=r"'m.weight_hh_l0' is computed from others"):
        load_optimizer(path, params, config)


@settings(deadline=None)
@given(st.data())
def test_places_are_those_of_all_layouts(data: st.DataObject) -> None:
    """Against brute force: every way to give each tensor to no group or one."""
    sizes = st.integers(1, 2)
    shapes = [(n,) for n in data.draw(st.lists(sizes, min_size=1, max_size=6))]
    number = data.draw(st.integers(1, 2))
    maybe = st.one_of(st.none(), st.tuples(sizes))
    groups = [data.draw(st.lists(maybe, max_size=3)) for _ in range(number)]
    wanted: list[set[Any]] = [set() for _ in shapes]
    for owners in itertools.product([None, *range(number)], repeat=len(shapes)):
        slots: list[Any] = []
        for position, owner in enumerate(owners):
            slots.append(None if owner is None else (owner, owners[:position].count(owner)))
        if all(owners.count(g) == len(group) for g, group in enumerate(groups)) and all(
            slot is None or groups[slot[0]][slot[1]] in (None, shape)
            for slot, shape in zip(slots, shapes, strict=True)
        ):
            for options, slot in zip(wanted, slots, strict=True):
                options.add(slot)
    assert places(shapes, groups) == wanted


def test_too_many_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="too many ways"):
        places([(1,)] * 40, [[(1,)]] * 30)


def test_schedulers_leave_notes_that_are_no_hyper_parameters(tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.1, momentum=0.9)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=9)
    torch.save({"m": lstm.state_dict(), "o": optimizer.state_dict()}, tmp_path / "c.pt")
    opt = reload(tmp_path / "c.pt")
    group = optimizer.param_groups[0]
    assert group["initial_lr"] == pytest.approx(0.02)
    ones = {name: jnp.ones(p.shape) for name, p in lstm.named_parameters()}
    updates: Any = opt.transform.update(ones, opt.state, ones)[0]
    np.testing.assert_allclose(updates["bias_ih_l0"], -group["lr"], rtol=1e-6)


def test_plain_values_are_read_beside_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    weight = torch.ones(2)
    plain = {"a": [1, 2.5, (True, None)], "b": {"c": "text", 3: -1}, "weight": weight}
    torch.save(plain, path)
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.scalars == {
        "a.0": 1, "a.1": 2.5, "a.2.0": True, "a.2.1": None, "b.c": "text", "b.3": -1
    }  # fmt: skip
    assert list(checkpoint) == ["weight"]
    torch.save({"a": {"b": 1}, "a.b": 2, "weight": weight}, path)
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.scalars == {}
    assert checkpoint.warnings == ["the plain values of the file clash at 'a.b'; none are kept"]
    torch.save({"a": list(range(100_000)), "weight": weight}, path)
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.scalars == {}
    assert "take too much memory" in checkpoint.warnings[0]


@pytest.mark.network
def test_resemblyzer_trains_on(tmp_path: Path) -> None:
    """A legacy file of 2019 whose optimizer is keyed by id(): one more step, of 1,564,501."""
    path = fetch_pinned("resemblyzer", "resemblyzer/pretrained.pt")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    order = checkpoint["optimizer_state"]["param_groups"][0]["params"]
    stored = [checkpoint["optimizer_state"]["state"][key] for key in order]
    params, config = load(path, batch_first=True)
    opt = load_optimizer(path, params, config)
    assert int(optax.tree_utils.tree_get(opt.state, "count")) == 1564500
    for k, name in enumerate(params, start=2):
        np.testing.assert_array_equal(moments(opt, name), stored[k]["exp_avg"])

    weights = {n: torch.nn.Parameter(torch.tensor(np.asarray(p))) for n, p in params.items()}
    adam = torch.optim.Adam(weights.values(), lr=1e-4)
    adam.load_state_dict(
        {
            "state": {
                k: {**stored[k + 2], "step": torch.tensor(float(stored[k + 2]["step"]))}
                for k in range(len(weights))
            },
            "param_groups": adam.state_dict()["param_groups"],
        }
    )
    rng = np.random.default_rng(0)
    grads = {n: 1e-3 * rng.standard_normal(p.shape, np.float32) for n, p in params.items()}
    for name, weight in weights.items():
        weight.grad = torch.tensor(grads[name])
    adam.step()
    updates, _ = opt.transform.update(grads, opt.state, params)
    for name, weight in weights.items():
        theirs = weight.detach().numpy() - np.asarray(params[name])
        spacing = np.spacing(np.abs(np.asarray(params[name])))
        assert np.abs(theirs).max() > 1e-5
        assert (np.abs(np.asarray(updates[name]) - theirs) <= spacing + 1e-9).all()
