"""Errors of load_optimizer, and moments matched to parameters by name, or by a unique order and shape."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlstm
from jaxlstm import LSTMConfig, load, load_optimizer
from jaxlstm_converters.optimizer.match import places
from testing.optimizer_files import moments, reload, stepped, write


def test_moments_are_bit_exact(tmp_path: Path) -> None:
    torch.manual_seed(1)
    norm, lstm, head = torch.nn.BatchNorm1d(20), torch.nn.LSTM(3, 5), torch.nn.Linear(5, 20)
    after = torch.nn.BatchNorm1d(20)
    model = torch.nn.Sequential(norm, lstm, head, after)
    state = stepped([model])
    write(tmp_path / "c.pt", model, state)
    params, config = load(tmp_path / "c.pt", batch_first=False)
    opt = load_optimizer(tmp_path / "c.pt", params, config)
    for k, name in enumerate(params, start=2):
        for ours, theirs in {"mu": "exp_avg", "nu": "exp_avg_sq"}.items():
            np.testing.assert_array_equal(moments(opt, name, ours), state["state"][k][theirs])
    assert int(optax.tree_utils.tree_get(opt.state, "count")) == 1
    half, config = load(tmp_path / "c.pt", batch_first=False, dtype=jnp.bfloat16)
    opt = load_optimizer(tmp_path / "c.pt", half, config)
    assert moments(opt, "weight_ih_l0").dtype == jnp.bfloat16


def test_parameters_of_the_optimizer(tmp_path: Path) -> None:
    """All parameters, only the LSTM, only the head, or another LSTM with the same shapes."""
    path = tmp_path / "c.pt"
    model = torch.nn.ModuleDict(
        {"head": torch.nn.Linear(5, 2), "a": torch.nn.LSTM(3, 5), "b": torch.nn.LSTM(3, 5)}
    )
    head, a, b = model["head"], model["a"], model["b"]

    state = stepped([model])
    write(path, model, state)
    for prefix, first in {"a": 2, "b": 6}.items():
        opt = reload(path, prefix=prefix)
        np.testing.assert_array_equal(moments(opt, "bias_hh_l0"), state["state"][first + 3]["exp_avg"])
    write(path, model, stepped([head]))
    with pytest.raises(ValueError, match=r"the optimizer at 'o.0' does not train this model"):
        reload(path, prefix="a")
    write(path, model, stepped([a]))
    with pytest.raises(ValueError, match=r"matches both 'm.a.' and 'm.b.'; pass optimizer='o.0'"):
        reload(path, prefix="a")
    assert reload(path, prefix="a", optimizer="o.0")
    write(path, model, stepped([head, a]))
    with pytest.raises(ValueError, match="has several parameters that may be"):
        reload(path, prefix="a")
    one, other = stepped([a]), stepped([b])
    write(path, model, one, other)
    opt = reload(path, prefix="b", optimizer="o.1")
    np.testing.assert_array_equal(moments(opt, "bias_ih_l0"), other["state"][2]["exp_avg"])
    with pytest.raises(ValueError, match=r"no optimizer at 'p' .* the optimizers are: 'o.0', 'o.1'"):
        reload(path, prefix="b", optimizer="p")
    write(path, model, stepped([model]), stepped([model], torch.optim.SGD, lr=0.1, momentum=0.9))
    with pytest.raises(
        ValueError, match=r"must select one of the optimizers that match this model: 'o.0', 'o.1'"
    ):
        reload(path, prefix="b")


def test_groups_without_names(tmp_path: Path) -> None:
    """Matrices and vectors in two groups have a unique match."""
    path = tmp_path / "c.pt"
    model = torch.nn.Sequential(torch.nn.Linear(3, 20), torch.nn.LSTM(20, 5, 2), torch.nn.Linear(5, 20))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    state = stepped(groups=[{"params": vectors, "weight_decay": 0.0}, {"params": matrices}])
    write(path, model, state)
    opt = reload(path)
    where = {id(p): k for k, p in enumerate([*vectors, *matrices])}
    for name, p in model[1].named_parameters():
        np.testing.assert_array_equal(moments(opt, name), state["state"][where[id(p)]]["exp_avg"])
    lstm = list(model[1].parameters())  # both groups have vectors of 20
    state = stepped(groups=[{"params": lstm[::2]}, {"params": lstm[1::2], "lr": 1.0}])
    write(path, model[1], state)
    with pytest.raises(ValueError, match=r"has several parameters that may be 'm.bias_ih_l0'"):
        reload(path)


def test_frozen_parameters(tmp_path: Path) -> None:
    """The optimizer has fewer parameters than the state dict; the order is still unique."""
    lstm, head = torch.nn.LSTM(3, 5, 2), torch.nn.Linear(5, 2)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3), lstm, head)
    state = stepped([lstm, head])
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [state]}, tmp_path / "c.pt")
    opt = reload(tmp_path / "c.pt")
    np.testing.assert_array_equal(moments(opt, "weight_hh_l1"), state["state"][5]["exp_avg"])


def test_keys_of_old_files(tmp_path: Path) -> None:
    """The first versions of torch numbered parameters by id(), and counted steps in plain integers."""
    lstm = torch.nn.LSTM(3, 5)
    state = stepped([lstm])
    keys = [140_000_000_000 + number for number in (64, 8, 120, 16)]
    fields = [{**state["state"][k], "step": 1_564_500} for k in range(4)]
    state["state"] = dict(zip(keys, fields, strict=True))
    state["param_groups"][0]["params"] = keys
    write(tmp_path / "c.pt", lstm, state)
    opt = reload(tmp_path / "c.pt")
    assert int(optax.tree_utils.tree_get(opt.state, "count")) == 1_564_500
    for (name, _), stored in zip(lstm.named_parameters(), fields, strict=True):
        np.testing.assert_array_equal(moments(opt, name), stored["exp_avg"])


@settings(deadline=None)
@given(st.data())
def test_places_equal_brute_force(data: st.DataObject) -> None:
    """Brute force assigns each tensor to no group or one, in every way."""
    sizes = st.integers(1, 2)
    shapes = [(n,) for n in data.draw(st.lists(sizes, min_size=1, max_size=6))]
    number = data.draw(st.integers(1, 2))
    maybe = st.one_of(st.none(), st.tuples(sizes))
    groups = [data.draw(st.lists(maybe, max_size=3)) for _ in range(number)]
    expected: list[set[Any]] = [set() for _ in shapes]
    for owners in itertools.product([None, *range(number)], repeat=len(shapes)):
        slots: list[Any] = []
        for position, owner in enumerate(owners):
            slots.append(None if owner is None else (owner, owners[:position].count(owner)))
        if all(owners.count(g) == len(group) for g, group in enumerate(groups)) and all(
            slot is None or groups[slot[0]][slot[1]] in (None, shape)
            for slot, shape in zip(slots, shapes, strict=True)
        ):
            for options, slot in zip(expected, slots, strict=True):
                options.add(slot)
    assert places(shapes, groups) == expected


NAMES = [name for name, _ in torch.nn.LSTM(3, 5).named_parameters()]
MATRIX, ORDER = torch.ones(20, 4), "has 4 parameters, which do not match the model's in order and shape"


INVALID: list[tuple[Callable[[Any], Any], str]] = [
    (lambda s: s["state"][1].update(z=torch.ones(2)), "has z of weight_hh_l0"),
    (lambda s: s["state"][1].pop("exp_avg_sq"), "has no exp_avg_sq of weight_hh_l0"),
    (lambda s: s["state"][1].update(step=4.0), "step counts.*weight_ih_l0 1, weight_hh_l0 4"),
    (lambda s: [moments.update(step=0.5) for moments in s["state"].values()], "a step count of 0.5"),
    (lambda s: s["param_groups"][0].update(mine=1), "is not an optimizer of torch.optim"),
    (lambda s: s["state"][1].update(exp_avg=MATRIX), ORDER),
    (lambda s: s["state"][1].update(exp_avg_sq=MATRIX), r"weight_hh_l0 with shape \(20, 4\), expected"),
    (lambda s: s["param_groups"][0].update(param_names=list("abcd")), "match the model's in names"),
    (
        lambda s: (s["param_groups"][0].update(param_names=NAMES), s["state"][1].update(exp_avg=MATRIX)),
        "match the model's in names",
    ),
    (lambda s: s.pop("param_groups"), "no optimizer with state .* the optimizers are: none"),
]
UNSUPPORTED = ["Adagrad", "NAdam", "RAdam", "Adamax", "Adadelta", "ASGD", "Rprop"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [*(("Adam", *row) for row in INVALID), *((name, len, f"'o.0' is .*{name}") for name in UNSUPPORTED)],
)
def test_invalid_optimizers(name: str, change: Any, message: str, tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    state = stepped([lstm], getattr(torch.optim, name))
    change(state)
    write(tmp_path / "c.pt", lstm, state)
    with pytest.raises(ValueError, match=message):
        reload(tmp_path / "c.pt")


def test_optax_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match=r"optax is not .* pip install 'jaxlstm\[optax\]'"):
        load_optimizer("none.pt", {}, LSTMConfig(3, 4))


def test_values_recorded_by_schedulers_are_ignored(tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.1, momentum=0.9)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=9)
    write(tmp_path / "c.pt", lstm, optimizer.state_dict())
    opt = reload(tmp_path / "c.pt")
    group = optimizer.param_groups[0]
    assert group["initial_lr"] == pytest.approx(0.02)
    ones = {name: jnp.ones(p.shape) for name, p in lstm.named_parameters()}
    updates: Any = opt.transform.update(ones, opt.state, ones)[0]
    np.testing.assert_allclose(updates["bias_ih_l0"], -group["lr"], rtol=1e-6)


def test_scalars_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    weight = torch.ones(2)
    torch.save({"a": [1, 2.5, (True, None)], "b": {"c": "text", 3: -1}, "weight": weight}, path)
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.scalars == {
        "a.0": 1, "a.1": 2.5, "a.2.0": True, "a.2.1": None, "b.c": "text", "b.3": -1
    }  # fmt: skip
    assert list(checkpoint) == ["weight"]
    torch.save({"a": {"b": 1}, "a.b": 2, "weight": weight}, path)
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.scalars == {}
    assert checkpoint.warnings == ["the scalars of the file have the name 'a.b' twice; none are kept"]
    torch.save({"a": list(range(100_000)), "weight": weight}, path)
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.scalars == {}
    assert "take too much memory" in checkpoint.warnings[0]
