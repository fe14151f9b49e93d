"""LSTMs of real checkpoints: as exact as torch on realistic inputs, and ``verify`` passes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.real_files import EACH_LSTM, Real
from tests.support.real_lstms import assert_real_lstm_is_as_exact_as_torch, assert_verdict_holds

pytestmark = pytest.mark.network

LARGE = ("resemblyzer", "beatnet", "beatnet-module", "silero-torchscript")


def each_lstm(slow: tuple[str, ...] = ()) -> list[Any]:
    """Every LSTM; the files in ``slow`` take a minute or more."""
    return [
        pytest.param(
            real,
            prefix,
            id=f"{real.label}-{prefix}",
            marks=[pytest.mark.slow] if real.label in slow else [],
        )
        for real, prefix in EACH_LSTM
    ]


@pytest.mark.parametrize(("real", "prefix"), each_lstm())
def test_as_exact_as_torch_in_float32(real: Real, prefix: str) -> None:
    assert_real_lstm_is_as_exact_as_torch(real, prefix)


@pytest.mark.parametrize(("real", "prefix"), each_lstm(slow=LARGE))
def test_verify(real: Real, prefix: str) -> None:
    assert_verdict_holds(real, prefix)
