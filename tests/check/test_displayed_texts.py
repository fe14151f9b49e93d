"""The verdict and the diagnosis follow from ids and kinds: other texts lead to the same faults."""

from __future__ import annotations

from dataclasses import replace

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
BUGS = ("order iofg", "bfloat16 weights", "padding multiplied", "batch first", "stale state", "tf32")


def with_axes_swapped(x, state, lengths, *, params):
    outputs, state = WrongPort(CONFIG)(x, state, lengths, params=params)
    return outputs.swapaxes(0, 1), state


def ports():
    """Return wrong ports that have not run, because one of them keeps its state."""
    return [*(WrongPort(CONFIG, bug) for bug in BUGS), with_axes_swapped]


def weight_and_bias(module):
    return (p.detach().numpy() for p in module.parameters())


def models():
    """Return wrong models of a linear layer and a ReLU: in values, precision, shape and gradients."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    w, b = weight_and_bias(theirs)
    return theirs, (
        lambda x: jnp.maximum(x @ w.T, 0),
        lambda x: jnp.maximum(x.astype(jnp.bfloat16) @ w.T + b, 0).astype(x.dtype),
        lambda x: jnp.maximum(x @ w.T + b, 0)[:, :1],
        lambda x: x @ w + b,
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
    return found + [verify_model(model, theirs, args, gradients=False, seconds=60.0) for model in ours]


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
