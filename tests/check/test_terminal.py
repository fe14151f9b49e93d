"""A report on a terminal: coloured by rich; plain without rich or if the output is not a terminal."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest

from jaxlstm.check import Item, Report
from jaxlstm.check.report.difference import Divergence, StepDifference
from jaxlstm.check.report.text import show_text

RED, GREEN = "\x1b[1;31m", "\x1b[32m"
DIFFERENCE = StepDifference(
    Divergence(0, "forward", 2, 1, "f", 0, 0.5, 0.25),
    {"f": (np.array([0.5]), np.array([0.25])), "c": (np.ones(1), np.ones(1))},
)
REPORT = Report(
    "my port [/bold]",
    (
        Item("shape", True),
        Item("semantics", False, 0.25, 1e-14, "worst: c_n[2, 4, 7]"),
        Item("lengths", None, detail="takes none"),
    ),
    diagnosis=("the gates are i,f,o,g",),
    notes=("no torch",),
    settings={"seed": 3, "dtype": "x"},
    environment={"jax": "1.2"},
    again="verify(port)",
    difference=DIFFERENCE,
)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Screen()


def plain(text: str) -> list[str]:
    return [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()]


def test_colours(screen: Screen) -> None:
    with redirect_stdout(screen):
        REPORT.show()
    text = screen.getvalue()
    assert plain(text) == [line.strip() for line in str(REPORT).splitlines()]
    assert f"my port [/bold]: {RED}DOES NOT HOLD\x1b[0m" in text
    assert f"{GREEN}ok\x1b[0m" in text
    assert f"{RED}FAILED\x1b[0m" in text
    assert "\x1b[33muntested\x1b[0m" in text
    assert "\x1b[1mNotes:\x1b[0m" in text
    assert f"{GREEN}HOLDS" not in text


def test_passing_report_is_green(screen: Screen) -> None:
    with redirect_stdout(screen):
        Report("r", (Item("shape", True),)).show()
    text = screen.getvalue()
    assert "\x1b[1;32mHOLDS\x1b[0m" in text
    assert RED not in text
    assert "\x1b[1m" not in text


def test_plain_if_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    REPORT.show()
    assert capsys.readouterr().out == f"{REPORT}\n"
    show_text("FAILED it")
    assert capsys.readouterr().out == "FAILED it\n"


def test_plain_without_rich(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with redirect_stdout(screen):
        REPORT.show()
        show_text("FAILED it")
    assert screen.getvalue() == f"{REPORT}\nFAILED it\n"


def test_table_highlights(screen: Screen) -> None:
    with redirect_stdout(screen):
        show_text(f"HOLDS\nbroken\nok 0.5 FAILED 7 DOES NOT HOLD {'x' * 200}")
    assert screen.getvalue() == (
        f"\x1b[1;32mHOLDS\x1b[0m\nbroken\n{GREEN}ok\x1b[0m 0.5 {RED}FAILED\x1b[0m 7 "
        f"{RED}DOES NOT HOLD\x1b[0m {'x' * 200}\n"
    )
