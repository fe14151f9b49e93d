"""Wrong ports are caught and at least nine of ten named correctly; right ports always pass.

`make test` runs a few mutants, the slow tests all of them. The verdict and the diagnosis follow from ids and
kinds: other displayed texts lead to the same faults.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm.check import verify, verify_model
from jaxlstm.check.criteria import catalogue
from jaxlstm.check.verification import Verification
from jaxlstm.layer.config import LSTMConfig
from testing import right_ports
from testing.verification import random_params, status
from testing.wrong_ports import BUGS, NEEDS_PROJECTION, PAIRS, WrongPort

DEEP = LSTMConfig(4, 5, num_layers=3, bidirectional=True)
PROJECTED = replace(DEEP, proj_size=3)
MUTANTS = [(bug,) for bug in BUGS] + list(PAIRS)
SINGLE = (
    *("padding multiplied", "stale state", "float32 inside", "batch first", "order iofg", "no h_0", "tf32"),
    *("flip over padding", "bias off by a thousandth", "padding kept", "clip at 50", "rows mixed"),
    "output scaled",
)
FAST = (*((bug,) for bug in SINGLE), ("no bias_ih", "state by direction"))


@pytest.mark.parametrize(
    "bugs",
    [
        pytest.param(bugs, marks=() if bugs in FAST else pytest.mark.slow, id=" and ".join(bugs))
        for bugs in MUTANTS
    ],
)
def test_verify_catches_and_names(bugs):
    config = PROJECTED if NEEDS_PROJECTION & set(bugs) else DEEP
    port = WrongPort(config, *bugs)
    params = random_params(config, seed=3)
    report = verify(port, params, config, gradients=False, seconds=60.0, against="oracle")
    assert not report.ok
    # The factors 0 and 1 of the padding are wrong only where a state is infinite.
    semantics = "ok" if bugs == ("padding multiplied",) else "FAILED"
    assert status(report)["float64 semantics against oracle"] == semantics
    causes = "\n".join(report.diagnosis)
    for bug in bugs:
        assert (BUGS[bug].cause or "") in causes
    if all(BUGS[bug].cause is None for bug in bugs):
        # No cause is better than a wrong one.
        assert "matches" not in causes


def random_config(rng):
    hidden = int(rng.integers(2, 12))
    return LSTMConfig(
        int(rng.integers(1, 9)),
        hidden,
        int(rng.integers(1, 4)),
        bias=bool(rng.integers(4)),
        bidirectional=bool(rng.integers(2)),
        proj_size=int(rng.integers(1, hidden)) if rng.integers(3) == 0 else 0,
    )


def not_accused(seed):
    rng = np.random.default_rng([seed, 77])
    config = random_config(rng)
    params = random_params(config, seed, scale=float(rng.choice([0.3, 1.0, 1.0, 3.0, 10.0])))
    port = right_ports.NUMPY[seed % len(right_ports.NUMPY)](config)
    report = verify(port, params, config, gradients=False, seed=seed)
    assert report.ok, f"seed {seed}: {report}"
    assert report.diagnosis == ()


# Seed 1810: sigmoid through tanh, at weights and states where its absolute error of a gate near 0 matters.
@pytest.mark.parametrize("seed", [*range(6), 1810])
def test_right_ports_are_not_accused(seed):
    not_accused(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_2000_right_ports_are_not_accused(block):
    for seed in range(50 * block, 50 * block + 50):
        not_accused(1000 + seed)


CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG)
OF_EACH_KIND = ("order iofg", "bfloat16 weights", "padding kept", "batch first", "stale state", "tf32")


def ports():
    """Return wrong ports that have not run, because one of them keeps its state."""
    return [WrongPort(CONFIG, bug) for bug in OF_EACH_KIND]


def models():
    """Return wrong models of a linear layer and a ReLU: in values, precision, shape and gradients.

    Ports that are wrong in precision or gradients are otherwise right.
    """
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    w, b = (p.detach().numpy() for p in theirs.parameters())

    def imprecise(x):
        if x.dtype == jnp.float64:
            return jnp.maximum(x @ w.T + b, 0)
        x, weight, bias = (jnp.asarray(a).astype(jnp.bfloat16).astype(x.dtype) for a in (x, w, b))
        return jnp.maximum(x @ weight.T + bias, 0)

    def with_double_gradients(x):
        return jnp.maximum((2 * x - jax.lax.stop_gradient(x)) @ w.T + b, 0)

    return theirs, (
        lambda x: jnp.maximum(x @ w.T, 0),
        imprecise,
        lambda x: jnp.maximum(x @ w.T + b, 0)[:, :1],
        with_double_gradients,
    )


def replace_texts(monkeypatch):
    """Replace the text of every criterion and the name of every case by random letters."""
    rng = np.random.default_rng(0)

    def text():
        return "".join(rng.choice(list("abcdefgh, "), 12))

    criteria = tuple(replace(criterion, text=text()) for criterion in catalogue.CRITERIA)
    for entry in ("_verify", "_verify_model"):
        monkeypatch.setattr(f"jaxlstm.check.{entry}.CRITERIA", criteria)
    try_case = Verification.try_case

    def try_renamed(self, case):
        return try_case(self, replace(case, name=text()))

    monkeypatch.setattr(Verification, "try_case", try_renamed)


def reports():
    found = [
        verify(port, PARAMS, CONFIG, gradients=False, against="oracle", seconds=60.0) for port in ports()
    ]
    theirs, ours = models()
    args = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),)
    return found + [verify_model(model, theirs, args, seconds=60.0) for model in ours]


def test_other_texts_lead_to_the_same_faults(monkeypatch):
    """The models are wrong in what their names say."""
    expected = reports()
    *_, imprecise, _, with_double_gradients = expected
    assert {item.kind for item in imprecise.failures} == {"precision", "gradient"}
    assert "lose accuracy in float32" in imprecise.diagnosis[0]
    assert {item.kind for item in with_double_gradients.failures} == {"gradient"}
    replace_texts(monkeypatch)
    found = reports()
    assert len(found) == len(ports()) + len(models()[1])
    for before, after in zip(expected, found, strict=True):
        assert not after.ok
        assert {item.name for item in after.failures}.isdisjoint(item.name for item in before.failures)
        assert [(i.id, i.kind, i.ok, i.measured) for i in after.items if i.kind] == [
            (i.id, i.kind, i.ok, i.measured) for i in before.items if i.kind
        ]
        assert after.diagnosis == before.diagnosis
        assert after.diagnosis
