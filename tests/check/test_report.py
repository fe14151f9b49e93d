"""The report: verdict, text, colors on a terminal, strict JSON, and a self-contained page with heat maps."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxlstm._shared.table import format_number
from jaxlstm.check import CheckFailed, Item, Report
from jaxlstm.check.report.html import heatmap_svg
from jaxlstm.check.report.item import Divergence, Heatmap, LayerDifference, StepDifference
from jaxlstm.check.report.report import show_text

GOOD = Item("shape", True, detail="2 cases")
BAD = Item("semantics", False, 0.25, 1e-14, "worst: <a>", {"at": (1, 2)}, "float64-results-torch", "semantic")
UNTESTED = Item("lengths", None, detail="takes none")
DIFFERENCE = StepDifference(
    Divergence(1, "reverse", 4, 2, "i*g", 1, 0.5, 0.25),
    {
        "f": (np.array([1.0, 0.5, 0.25]), np.array([1.0, 0.5, 0.25])),
        "i*g": (np.array([0.0, 0.5, np.nan]), np.array([0.0, 0.25, 0.125])),
    },
)
LAYERS = (
    LayerDifference("fc", "fc", "Linear", (2, 3), (2, 3), 0.0, 1e-16, 1e-9),
    LayerDifference("act", "relu", "ReLU", (2, 3), (2, 4), 0.0, math.inf, 1e-9),
)
GRID = Heatmap("e < 1", "time", "unit", [[0.0, 1e-3, 1.0], [1e-7, 1e-6, 1e-2]])
REPORT = Report(
    "a < b",
    (GOOD, BAD, UNTESTED),
    diagnosis=("the gates are i,f,o,g & more", "or not"),
    notes=("no torch",),
    settings={"seed": 3},
    environment={"jaxlstm": "0.1", "python": "3", "jax": "1.2", "torch": "2.9", "device": "cpu: <x>"},
    heatmaps=(GRID,),
    again="verify(<p>)",
    difference=DIFFERENCE,
    layers=LAYERS,
)

TEXT = """\
a < b: DOES NOT HOLD (1 ok, 1 failed, 1 untested)
Diagnosis:
  the gates are i,f,o,g & more
  or not
First difference from the oracle: layer 1, reverse, at time 4, row 2:
  status   gate  units that differ  worst unit  port  oracle
  equal    f                0 of 3           0     1       1
  DIFFERS  i*g              2 of 3           2   nan   0.125
Layers:
  status   layer              type      difference / largest element
  equal    fc                 Linear                         1.0e-16
  DIFFERS  relu (torch: act)  ReLU    shape (2, 4) instead of (2, 3)
Items:
  status    item       measured    limit  detail
  FAILED    semantics      0.25  1.0e-14  worst: <a>
  ok        shape                         2 cases
  untested  lengths                       takes none
Notes:
  no torch
Settings:
  seed: 3
Environment:
  jaxlstm: 0.1
  python: 3
  jax: 1.2
  torch: 2.9
  device: cpu: <x>
Reproduce:
  verify(<p>)"""


def test_verdict():
    assert Report("r", (GOOD, UNTESTED)).ok
    assert not Report("r", (GOOD, BAD)).ok
    assert not Report("r", (UNTESTED,)).ok
    assert not Report("r", ()).ok


def test_raises_with_the_summary():
    report = Report("my port", (GOOD, *[BAD] * 9), diagnosis=("the gates are i,f,o,g",))
    Report("r", (GOOD,)).raise_if_failed()
    with pytest.raises(CheckFailed, match="my port: DOES NOT HOLD") as caught:
        report.raise_if_failed()
    message = str(caught.value)
    assert "the gates are i,f,o,g" in message
    assert "and 4 more" in message
    assert len(message.splitlines()) < 15
    assert caught.value.report is report


def test_full_text():
    assert str(REPORT) == TEXT
    assert str(Report("r", (GOOD,))) == (
        "r: HOLDS (1 ok)\nItems:\n  status  item   measured  limit  detail\n"
        "  ok      shape                   2 cases"
    )


def test_summary_has_at_most_five_failures():
    table = "status  item       measured    limit  detail\nFAILED  semantics      0.25  1.0e-14  worst: <a>"
    assert REPORT.first_screen() == TEXT.partition("\nFirst")[0] + "\n" + table
    five, six = Report("r", (BAD,) * 5), Report("r", (BAD,) * 6)
    assert len(five.first_screen().splitlines()) == 1 + 1 + 5
    assert "more" not in five.first_screen()
    assert six.first_screen().endswith("\n... and 1 more, in str(report)")
    # Without failures: what was not tested.
    untested = Report("r", (UNTESTED,)).first_screen()
    assert untested.splitlines()[2] == "untested  lengths                   takes none"


def test_failures():
    assert REPORT.failures == (BAD,)
    assert REPORT.to_dict()["items"][1] == {
        "id": "float64-results-torch",
        "kind": "semantic",
        "name": "semantics",
        "status": "FAILED",
        "measured": 0.25,
        "limit": 1e-14,
        "detail": "worst: <a>",
        "data": {"at": (1, 2)},
    }
    document = json.loads(REPORT.to_json())
    gates = [
        {"gate": "f", "off": 0, "units": 3, "worst": 0, "actual": 1.0, "expected": 1.0},
        {"gate": "i*g", "off": 2, "units": 3, "worst": 2, "actual": "nan", "expected": 0.125},
    ]
    assert document.pop("items")[1]["data"] == {"at": [1, 2]}
    assert document.pop("difference") == {**DIFFERENCE.place._asdict(), "gates": gates}
    assert [(layer["ours"], layer["outputs"], layer["ok"]) for layer in document.pop("layers")] == [
        ("fc", 1e-16, True),
        ("relu", "inf", False),
    ]
    assert next(iter(document.items())) == ("schema", 1)
    assert document == {
        "schema": 1,
        "ok": False,
        "title": "a < b",
        "diagnosis": list(REPORT.diagnosis),
        "notes": ["no torch"],
        "settings": {"seed": 3},
        "environment": REPORT.environment,
        "again": "verify(<p>)",
    }
    assert Report("r", (GOOD,)).to_dict()["difference"] is None


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (None, ""),
        (0.0, "0"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1.0, "1"),
        (0.001, "0.001"),
        (0.00099, "9.9e-04"),
        (-1234.5, "-1.23e+03"),
        (99999.0, "1e+05"),
        (1e5, "1.0e+05"),
    ],
)
def test_number_format(value, document):
    assert format_number(value) == document


def shown(page: str) -> list[str]:
    """Return the visible text of a page, element by element."""
    text = unescape(re.sub(r"\s*<[^>]*>\s*", "|", page.partition("<body>")[2]))
    return [part for part in text.split("|") if part.strip()]


def test_page_has_every_word_of_the_text():
    """The page shows the sections of the text, heat maps, and a header with the most important versions."""
    page, lines = REPORT.to_html(), TEXT.splitlines()
    assert shown(page)[:4] == [
        *("DOES NOT HOLD", "a < b", "1 ok, 1 failed, 1 untested"),
        "jaxlstm 0.1 · jax 1.2 · torch 2.9 · cpu: <x>",
    ]
    headings = [line[:-1] for line in lines if not line.startswith(" ") and line.endswith(":")]
    headings.insert(4, "Error over time and units")
    assert [unescape(h) for h in re.findall("<h2>(.*?)</h2>", page)] == headings
    cells = {cell for line in lines if line.startswith("  ") for cell in re.split("  +", line.strip())}
    missing = cells - set(shown(page))
    # Names and their values are two cells.
    assert {part for cell in missing for part in cell.split(": ", 1)} <= set(shown(page))
    statuses = re.findall(r'<td class="(\w{2,})">', page)
    assert statuses == ["equal", "differs", "equal", "differs", "failed", "ok", "untested"]
    assert '<main class="fails">' in page
    assert '<main class="holds">' in Report("r", (GOOD,)).to_html()
    assert "<title>a &lt; b: DOES NOT HOLD (1 ok, 1 failed, 1 untested)</title>" in page
    bare = Report("r", (GOOD,)).to_html()
    head = ("Items", "status", "item", "measured", "limit", "detail")
    assert shown(bare) == ["HOLDS", "r", "1 ok", *head, "ok", "shape", "2 cases"]


def test_page_is_self_contained_and_well_formed():
    page = REPORT.to_html()
    ElementTree.fromstring(page[page.index("<body>") : page.index("</html>")])
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)


def figure(grid):
    """Return the captions of a heat map, and (x, y, width) of each run of cells by opacity."""
    caption, svg = ElementTree.fromstring(heatmap_svg(grid))
    cells = {
        float(path.attrib["fill-opacity"]): [
            (int(x), int(y), int(w)) for x, y, w in re.findall(r"M(\d+) (\d+)h(\d+)v1H\1z", path.attrib["d"])
        ]
        for path in svg
    }
    return [caption.text, *(small.text for small in caption)], cells, svg.attrib


def test_heatmap():
    captions, cells, size = figure(GRID)
    assert captions == [
        *("e < 1", "largest: 1 at time 2, unit 0"),
        "time 0 to 2 from left to right, unit 0 to 1 from top to bottom",
        "shades from 1.0e-06 to 1, logarithmic",
    ]
    assert cells == {0.5: [(1, 0, 1)], 1.0: [(2, 0, 1)], 0.67: [(2, 1, 1)]}
    assert [size[k] for k in ("width", "height", "viewBox")] == ["60", "28", "0 0 3 2"]
    captions, *_ = figure(replace(GRID, labels=("f", "i*g")))
    assert captions[1:3] == [
        "largest: 1 at time 2, f",
        "time 0 to 2 from left to right, f, i*g from top to bottom",
    ]
    assert heatmap_svg(replace(GRID, rows=[])) == heatmap_svg(replace(GRID, rows=[[], []])) == ""


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rows", "floor", "cells", "largest"),
    [
        # The scale covers at least six orders of magnitude, and more above a lower floor.
        (GRID.rows, 1e-4, {0.17: [(1, 0, 1)], 0.67: [(2, 0, 1)], 0.33: [(2, 1, 1)]}, "1 at time 2, unit 0"),
        ([[0.0, 1e-9, 1.0]], 1e-12, {0.25: [(1, 0, 1)], 1.0: [(2, 0, 1)]}, "1 at time 2, unit 0"),
        # NaN and infinity get the strongest shade and do not affect the scale.
        (
            [[INF, NAN, 1e-3, 0.0, -1.0, 1.0]],
            0.0,
            {0.5: [(2, 0, 1)], 1.0: [(0, 0, 2), (5, 0, 1)]},
            "inf at time 0, unit 0",
        ),
        ([[NAN, 0.0]], 0.0, {1.0: [(0, 0, 1)]}, "nan at time 0, unit 0"),
        ([[0.0, 0.0]], 0.0, {}, None),
        ([[0.0, 0.0]], 1e-8, {}, None),
    ],
)
def test_scale_of_a_heatmap(rows, floor, cells, largest):
    captions, found, _ = figure(replace(GRID, rows=rows, floor=floor))
    assert found == cells
    assert captions[1] == (f"largest: {largest}" if largest else "zero everywhere")


def test_downsampling_keeps_the_largest():
    rows = [[0.0] * 97 for _ in range(193)]
    rows[192][96] = 1.0
    rows[3][1] = 1e-3
    captions, cells, size = figure(replace(GRID, rows=rows))
    assert cells == {0.5: [(0, 1, 1)], 1.0: [(48, 64, 1)]}
    assert [size[k] for k in ("width", "height", "viewBox")] == ["300", "150", "0 0 49 65"]
    assert captions[1:3] == [
        "largest: 1 at time 96, unit 192",
        "time 0 to 96 from left to right, unit 0 to 192 from top to bottom",
    ]
    assert figure(replace(GRID, rows=[[1.0] * 96]))[1] == {1.0: [(0, 0, 96)]}


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


def test_colours(screen: Screen) -> None:
    """Markup in a title, as in ``[/bold]``, is shown as it is, and long lines are not wrapped."""
    report = replace(REPORT, title=f"my port [/bold] {'x' * 200}")
    with redirect_stdout(screen):
        report.show()
    text = screen.getvalue()
    assert re.sub(r"\x1b\[[\d;]*m", "", text) == f"{report}\n"
    colors = re.findall(r"\x1b\[([\d;]+)m(.*?)\x1b", text)
    assert {("1;31", "DOES NOT HOLD"), ("1;31", "FAILED"), ("32", "ok")} <= set(colors)
    assert {("33", "untested"), ("1", "Notes:")} <= set(colors)
    assert "HOLDS" not in {word for _, word in colors}
    screen.truncate(0)
    with redirect_stdout(screen):
        show_text("HOLDS\nbroken")
    assert screen.getvalue().lstrip("\0") == "\x1b[1;32mHOLDS\x1b[0m\nbroken\n"


def test_plain_without_a_terminal_or_rich(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    REPORT.show()
    assert capsys.readouterr().out == f"{REPORT}\n"
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with redirect_stdout(screen):
        REPORT.show()
    assert screen.getvalue() == f"{REPORT}\n"
