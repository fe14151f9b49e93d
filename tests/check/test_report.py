"""The report: verdict, text, strict JSON and a self-contained page."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxlstm._shared.table import format_number
from jaxlstm.check import CheckFailed, Item, Report
from jaxlstm.check.report.difference import Divergence, StepDifference
from jaxlstm.check.report.item import Heatmap

GOOD = Item("shape", True, detail="2 cases")
BAD = Item("semantics", False, 0.25, 1e-14, "worst: <a>", {"at": (1, 2)}, "float64-results-torch", "semantic")
UNTESTED = Item("lengths", None, detail="takes none")
REPORT = Report(
    "my port",
    (GOOD, BAD, UNTESTED),
    diagnosis=("the gates are i,f,o,g", "or not"),
    notes=("no torch",),
    settings={"seed": 3},
    environment={"jax": "1.2"},
    again="verify(port)",
)

TEXT = """\
my port: DOES NOT HOLD (1 ok, 1 failed, 1 untested)
Diagnosis:
  the gates are i,f,o,g
  or not

status    item       measured    limit  detail
ok        shape                         2 cases
FAILED    semantics      0.25  1.0e-14  worst: <a>
untested  lengths                       takes none
Notes:
  no torch
Settings:
  seed: 3
Environment:
  jax: 1.2
Reproduce:
  verify(port)"""


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
        "r: HOLDS (1 ok)\n\nstatus  item   measured  limit  detail\nok      shape                   2 cases"
    )


def test_summary_has_at_most_five_failures():
    table = "status  item       measured    limit  detail\nFAILED  semantics      0.25  1.0e-14  worst: <a>"
    assert REPORT.first_screen() == TEXT.partition("\n\n")[0] + "\n" + table
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
    document = REPORT.to_dict()
    del document["items"]
    assert document == {
        "schema": 1,
        "ok": False,
        "title": "my port",
        "diagnosis": ["the gates are i,f,o,g", "or not"],
        "notes": ["no torch"],
        "settings": {"seed": 3},
        "environment": {"jax": "1.2"},
        "again": "verify(port)",
        "difference": None,
        "layers": [],
    }
    assert REPORT.to_json().splitlines()[1] == '  "schema": 1,'
    assert json.loads(REPORT.to_json())["items"][1]["measured"] == 0.25
    odd = Item("odd", False, float("nan"), data={"x": float("inf"), "at": (1, 2)})
    (item,) = json.loads(Report("r", (odd,)).to_json())["items"]
    assert (item["measured"], item["data"]) == ("nan", {"x": "inf", "at": [1, 2]})


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


def test_every_part_of_the_page():
    page = REPORT.to_html()
    assert shown(page) == [
        *("DOES NOT HOLD", "my port", "1 ok, 1 failed, 1 untested", "jax 1.2"),
        *("Diagnosis", "the gates are i,f,o,g", "or not"),
        *("Items", "Status", "Item", "Measured", "Limit", "Detail"),
        *("FAILED", "semantics", "0.25", "1.0e-14", "worst: <a>"),
        *("ok", "shape", "2 cases"),
        *("untested", "lengths", "takes none"),
        *("Notes", "no torch", "Reproduce", "verify(port)"),
        *("Environment", "jax", "1.2", "Settings", "seed", "3"),
    ]
    assert '<main class="fails">' in page
    assert '<main class="holds">' in Report("r", (GOOD,)).to_html()
    assert "<title>my port: DOES NOT HOLD (1 ok, 1 failed, 1 untested)</title>" in page
    assert re.findall(r'<td class="s (\w+)">', page) == ["failed", "ok", "untested"]
    bare = Report("r", (GOOD,)).to_html()
    assert re.findall("<h2>(.*?)</h2>", bare) == ["Items"]
    head = ("Items", "Status", "Item", "Measured", "Limit", "Detail")
    assert shown(bare) == ["HOLDS", "r", "1 ok", *head, "ok", "shape", "2 cases"]


def test_page_is_self_contained():
    grid = Heatmap("errors", "time", "unit", [[0.0, 1e-3], [1.0, float("nan")]])
    report = Report("a < b", (GOOD, BAD), ("x & y",), ("n",), heatmaps=(grid,), again="verify(<p>)")
    page = report.to_html()

    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag, attrs):
            if tag != "meta":
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert "x &amp; y" in page
    assert "&lt;a&gt;" in page
    assert "<svg" in page
    assert "verify(&lt;p&gt;)" in page


def test_settings_are_beside_the_verdict():
    document = {"jaxlstm": "0.1", "python": "3", "jax": "1.2", "torch": "2.9", "device": "cpu: <x>"}
    page = Report("r", (GOOD,), environment=document).to_html()
    assert shown(page)[3] == "jaxlstm 0.1 · jax 1.2 · torch 2.9 · cpu: <x>"


DIFFERENCE = StepDifference(
    Divergence(1, "reverse", 4, 2, "i*g", 1, 0.5, 0.25),
    {
        "f": (np.array([1.0, 0.5, 0.25]), np.array([1.0, 0.5, 0.25])),
        "i*g": (np.array([0.0, 0.5, np.nan]), np.array([0.0, 0.25, 0.125])),
    },
)


def test_gates_at_the_divergence():
    report = Report("r", (BAD,), difference=DIFFERENCE)
    assert (
        "Gates at layer 1, reverse, at time 4, row 2:\n"
        "  f: 0 of 3 units differ; the worst is unit 0: 1, expected 1\n"
        "  i*g: 2 of 3 units differ; the worst is unit 2: nan, expected 0.125"
    ) in str(report)
    page = report.to_html()
    parts = shown(page)
    start = parts.index("First difference from the oracle: layer 1, reverse, at time 4, row 2")
    assert parts[start + 1 : start + 18] == [
        *("Gate", "Units that differ", "Worst unit", "Port", "Oracle"),
        *("f", "0 of 3", "0", "1", "1"),
        *("i*g", "2 of 3", "2", "nan", "0.125"),
        *("Distance from the oracle", "largest: nan at unit 2, i*g"),
    ]
    assert re.findall(r'<td class="s (\w+)">(f|i\*g)<', page) == [("ok", "f"), ("failed", "i*g")]
    assert start < parts.index("Items")
    document = json.loads(report.to_json())["difference"]
    assert document["gates"][1] == {
        "gate": "i*g",
        "off": 2,
        "units": 3,
        "worst": 2,
        "actual": "nan",
        "expected": 0.125,
    }
    assert (document["layer"], document["direction"], document["unit"]) == (1, "reverse", 1)
    assert DIFFERENCE.errors()["i*g"][:2].tolist() == [0.0, 0.25]
