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
from jaxlstm.check.report.terminal import show_text

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
    assert f"{RED}DOES NOT HOLD\x1b[0m" in text
    assert f"{GREEN}ok " in text
    assert f"{RED}FAILED" in text
    lines = plain(text)
    assert lines[1].strip("│ ") == "DOES NOT HOLD  my port [/bold]  1 ok, 1 failed, 1 untested"
    assert lines[3] == "the gates are i,f,o,g"
    table = [line for line in lines if line.startswith(("status", "FAILED"))]
    assert table == [
        "status     item        measured     limit   detail",
        "FAILED     semantics       0.25   1.0e-14   worst: c_n[2, 4, 7]",
    ]
    assert lines[-12:] == [
        "Gates at layer 0, forward, at time 2, row 1",
        "f: 1 of 1 units differ; the worst is unit 0: 0.5, expected 0.25",
        "c: 0 of 1 units differ; the worst is unit 0: 1, expected 1",
        *("Notes", "no torch", "Settings", "seed   3", "dtype  x", "Environment", "jax  1.2"),
        *("Reproduce", "verify(port)"),
    ]
    assert "\x1b[31m  f: 1 of 1" in text
    assert f"{GREEN}  c: 0 of 1" in text
    assert "\x1b[2m  dtype\x1b[0m" in text
    assert "\x1b[1mNotes\x1b[0m" in text
    assert "\x1b[33muntested" in text
    assert f"{GREEN}HOLDS" not in text


def test_passing_report_is_green(screen: Screen) -> None:
    with redirect_stdout(screen):
        Report("r", (Item("shape", True),)).show()
    text = screen.getvalue()
    assert "\x1b[1;32mHOLDS\x1b[0m" in text
    assert RED not in text
    for heading in ("Gates", "Notes", "Settings", "Environment", "Reproduce"):
        assert heading not in text


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
