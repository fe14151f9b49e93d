"""Wrong ports are caught and at least nine of ten named correctly; right ports always pass.

`make test` runs a few mutants, the slow tests all of them.
"""

from dataclasses import replace

import numpy as np
import pytest

from jaxlstm.check import verify
from jaxlstm.layer.config import LSTMConfig
from testing import right_ports
from testing.verification import random_params
from testing.wrong_ports import BUGS, PAIRS, WrongPort

DEEP = LSTMConfig(4, 5, num_layers=3, bidirectional=True)
PROJECTED = replace(DEEP, proj_size=3)
MUTANTS = [(bug,) for bug in BUGS] + list(PAIRS)
FAST = ("padding multiplied", "stale state", "batch first", "order iofg", "tf32")


@pytest.mark.usefixtures("random_texts")
@pytest.mark.quick(*FAST, "no bias_ih and state by direction")
@pytest.mark.parametrize("bugs", MUTANTS, ids=" and ".join)
def test_verify_catches_and_names(bugs):
    config = PROJECTED if "projection before tanh" in bugs else DEEP
    port = WrongPort(config, *bugs)
    params = random_params(config, seed=3)
    report = verify(port, params, config, gradients=False, seconds=60.0, against="oracle")
    assert not report.ok
    # The factors 0 and 1 of the padding are wrong only where a state is infinite.
    semantics = "ok" if bugs == ("padding multiplied",) else "FAILED"
    assert {item.id: item.status for item in report.items}["float64-results-oracle"] == semantics
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
@pytest.mark.quick("0", "1", "2", "1810")
@pytest.mark.parametrize("seed", [*range(6), 1810])
def test_right_ports_are_not_accused(seed):
    not_accused(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_2000_right_ports_are_not_accused(block):
    for seed in range(50 * block, 50 * block + 50):
        not_accused(1000 + seed)
