"""Real checkpoints on each backend: accuracy of torch, and the verdict of the checker."""

from __future__ import annotations

import pytest

from testing.each_backend import on_each_backend
from testing.real_files import BY_LABEL, EACH_LSTM, Real
from testing.real_lstms import assert_real_lstm_is_as_exact_as_torch, assert_verdict_holds

pytestmark = pytest.mark.network

SMALL = [(BY_LABEL["silero-safetensors"], "lstm_cell.")]


def name_of(row: tuple[Real, str]) -> str:
    return f"{row[0].label}-{row[1]}"


@on_each_backend("row", EACH_LSTM, on_cpu=SMALL, ids=name_of)
def test_as_exact_as_torch_in_float32(backend: str, row: tuple[Real, str]) -> None:
    assert_real_lstm_is_as_exact_as_torch(*row)


@on_each_backend("row", EACH_LSTM, on_cpu=[], ids=name_of)
def test_the_verdict_holds(backend: str, row: tuple[Real, str]) -> None:
    assert_verdict_holds(*row)
