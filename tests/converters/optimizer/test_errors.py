"""Errors of load_optimizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import LSTMConfig, load, load_optimizer
from testing.optimizer_files import reload, stepped, write

UNSUPPORTED = ["Adagrad", "NAdam", "RAdam", "Adamax", "Adadelta", "ASGD", "Rprop"]


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_optimizers_are_named(name: str, tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    write(tmp_path / "c.pt", lstm, stepped([lstm], getattr(torch.optim, name)))
    with pytest.raises(ValueError, match=f"the optimizer at 'o.0' is .*{name}"):
        reload(tmp_path / "c.pt")


MATRIX, ORDER = torch.ones(20, 4), "has 4 parameters, which do not match the model's in order and shape"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["param_groups"][0].update(trust=0.1), "not an optimizer of torch.optim"),
        (lambda s: s["state"][1].update(z=torch.ones(2)), "has z of weight_hh_l0"),
        (lambda s: s["state"][1].pop("exp_avg_sq"), "has no exp_avg_sq of weight_hh_l0"),
        (lambda s: s["state"][1].update(step=4.0), "step counts.*weight_ih_l0 1, weight_hh_l0 4"),
        (lambda s: s["state"].pop(3), "different step counts.*bias_hh_l0 0"),
        (lambda s: [v.update(step=1.5) for v in s["state"].values()], "expected a whole number"),
        (lambda s: s["state"][1].update(exp_avg=MATRIX), ORDER),
        (lambda s: s["state"][1].update(exp_avg_sq=MATRIX), r"shape \(20, 4\), expected \(20, 5\)"),
        (lambda s: s["param_groups"][0].update(param_names=list("abcd")), "match the model's in names"),
        (lambda s: s.pop("param_groups"), "no optimizer with state .* the optimizers are: none"),
    ],
)
def test_invalid_optimizers(change: Any, message: str, tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    state = stepped([lstm])
    change(state)
    write(tmp_path / "c.pt", lstm, state)
    with pytest.raises(ValueError, match=message):
        reload(tmp_path / "c.pt")


def test_dampening_before_the_first_step(tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(3, 5)
    optimizer = torch.optim.SGD(lstm.parameters(), momentum=0.9, dampening=0.5)
    write(tmp_path / "c.pt", lstm, optimizer.state_dict())
    with pytest.raises(ValueError, match="has dampening but no momentum_buffer of weight_ih_l0"):
        reload(tmp_path / "c.pt")


def test_optax_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match=r"optax is not .* pip install 'jaxlstm\[optax\]'"):
        load_optimizer("none.pt", {}, LSTMConfig(3, 4))


def test_weight_norm_and_wrong_configs(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    lstm = torch.nn.LSTM(3, 5)
    write(path, lstm, stepped([lstm]))
    params, config = load(path, batch_first=False)
    with pytest.raises(ValueError, match="params do not fit"):
        load_optimizer(path, params, LSTMConfig(3, 6))
    other = LSTMConfig(3, 6)
    with pytest.raises(ValueError, match=r"the LSTM at 'm.' does not have the shapes of"):
        load_optimizer(path, jaxlstm.init_params(jax.random.key(0), other), other)
    torch.nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    write(path, lstm, stepped([lstm]))
    params, config = load(path, batch_first=False)
    with pytest.raises(ValueError, match=r"'m.weight_hh_l0' is computed from other tensors"):
        load_optimizer(path, params, config)


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
    assert checkpoint.warnings == ["the scalars of the file have the name 'a.b' twice; none are kept"]
    torch.save({"a": list(range(100_000)), "weight": weight}, path)
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.scalars == {}
    assert "take too much memory" in checkpoint.warnings[0]
