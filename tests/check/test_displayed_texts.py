"""The verdict and the diagnosis follow from ids and kinds: other texts lead to the same faults."""

from __future__ import annotations

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
from testing.verification import random_params
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG)
BUGS = ("order iofg", "bfloat16 weights", "padding kept", "batch first", "stale state", "tf32")


def ports():
    """Return wrong ports that have not run, because one of them keeps its state."""
    return [WrongPort(CONFIG, bug) for bug in BUGS]


def weight_and_bias(module):
    return (p.detach().numpy() for p in module.parameters())


def models():
    """Return wrong models of a linear layer and a ReLU: in values, precision, shape and gradients.

    Ports that are wrong in precision or gradients are otherwise right.
    """
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    w, b = weight_and_bias(theirs)

    def imprecise(x):
        if x.dtype == jnp.float64:
            return jnp.maximum(x @ w.T + b, 0)
        operands = (jnp.asarray(a).astype(jnp.bfloat16).astype(x.dtype) for a in (x, w, b))
        x, weight, bias = operands
        return jnp.maximum(x @ weight.T + bias, 0)

    def with_double_gradients(x):
        return jnp.maximum((2 * x - jax.lax.stop_gradient(x)) @ w.T + b, 0)

    return theirs, (
        lambda x: jnp.maximum(x @ w.T, 0),
        imprecise,
        lambda x: jnp.maximum(x @ w.T + b, 0)[:, :1],
        with_double_gradients,
    )


@pytest.fixture
def random_texts(monkeypatch):
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


@pytest.fixture(scope="module")
def expected():
    return reports()


def test_other_texts_lead_to_the_same_faults(expected, random_texts):
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


def test_models_are_wrong_in_what_their_names_say(expected):
    *_, imprecise, _, with_double_gradients = expected
    assert {item.kind for item in imprecise.failures} == {"precision", "gradient"}
    assert "lose accuracy in float32" in imprecise.diagnosis[0]
    assert {item.kind for item in with_double_gradients.failures} == {"gradient"}
