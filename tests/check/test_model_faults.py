"""Planted faults in Flax ports of three models: all are caught, and the report names the cause."""

from __future__ import annotations

import re

import pytest
import torch

from jaxlstm.check import verify_model
from testing.model_ports import FAULTS, MODELS

pytestmark = pytest.mark.usefixtures("fast_compilation")

QUICK = {
    *(("crnn", "flatten order"), ("crnn", "pool stride")),
    *(("tagger", "dropout"), ("tagger", "linear in bfloat16")),
}
"""Faults of different kinds. The others are as quick, but together they take minutes."""


@pytest.mark.parametrize(
    ("model", "fault"),
    [pytest.param(*f, marks=() if f in QUICK else pytest.mark.slow, id=", ".join(f)) for f in FAULTS],
)
def test_planted_fault(model, fault):
    torch.manual_seed(0)
    theirs, ours, args, call = MODELS[model](fault)
    # A slow machine must not end the search of causes.
    report = verify_model(ours, theirs, args, call=call, gradients=False, seconds=300)
    assert not report.ok
    assert re.search(FAULTS[model, fault], report.diagnosis[0]), "\n".join(report.diagnosis)
    assert any("differ" in line for line in report.diagnosis)
    assert any(not layer.ok for layer in report.layers) or fault == "log_softmax"


def test_number_of_faults():
    assert len(FAULTS) >= 25
    assert {model for model, _ in FAULTS} == set(MODELS)
