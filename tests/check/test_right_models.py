"""No false alarms: right Flax ports of random torch models hold."""

from __future__ import annotations

import pytest

from jaxlstm.check import verify_model
from testing.random_models import random_models

SAMPLE, ALL = 1, 200


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed < SAMPLE else pytest.mark.slow) for seed in range(ALL)]
)
def test_right_port_holds(seed):
    theirs, ours, args = random_models(seed)
    report = verify_model(ours, theirs, args)
    assert report.ok, str(report)
    assert {item.status for item in report.items} == {"ok"}, str(report)
