"""The checker's verdict on other libraries' LSTMs. Each compiles for seconds, so the tests are slow."""

from __future__ import annotations

import pytest

from benchmarks import verdicts
from testing.verification import status

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["flax.nnx, no padding", "jax.experimental.rnn.lstm_ref"])
def test_right_libraries_hold(name: str) -> None:
    report = verdicts.verdict_on(name, gradients=False)
    columns = verdicts.columns(name, report)
    assert columns["verdict"] == "holds", str(report)
    assert columns["untested"] == ("ragged lengths" if "padding" in name else "")


def test_flax_does_not_zero_the_padding() -> None:
    name = "flax.nnx.RNN, Bidirectional"
    report = verdicts.verdict_on(name, gradients=False)
    columns = verdicts.columns(name, report)
    assert columns["verdict"] == "does not hold"
    assert columns["diagnosis"] == report.diagnosis[0]
    assert "in which the outputs in the padding are not zeroed" in report.diagnosis[0]
    assert "fails in ragged, saturating, tiny" in str(report)
    assert status(report)["step residual"] == "ok"
