"""Progress bars, and sizes in bytes."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr

import pytest

from jaxlstm import LSTMConfig
from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import size
from jaxlstm.inference import compile
from testing.command import Screen
from testing.inference import normal, weights


@pytest.mark.parametrize("rich", ["with rich", "without"])
def test_a_progress_bar_is_removed_at_the_end(rich: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if rich == "without":
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    raised = pytest.raises(ValueError, match="broke")
    with raised as caught, redirect_stderr(screen), progress_bar() as bar:
        bar(1, 3, "things")
        raise ValueError("broke")
    assert "things" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K" if rich == "with rich" else "\r\x1b[K")
    assert caught.value.__context__ is None  # not raised while an ImportError of rich is handled


def test_progress_can_be_turned_off() -> None:
    """No bar is shown, and none is nested, which older versions of rich reject."""
    config = LSTMConfig(5, 12)
    runner = compile(weights(config), config, max_length=16, max_batch=2)
    screen = Screen()
    with redirect_stderr(screen):
        runner.warmup(progress=False)
        runner.map([normal(3, 5)] * 5, 2, progress=False)
    assert screen.getvalue() == ""


def test_size() -> None:
    counts = (0, 999, 1000, 999_949, 999_950, 10**9, 5 * 10**15)
    expected = ("0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB", "5000.0 TB")
    assert tuple(map(size, counts)) == expected
