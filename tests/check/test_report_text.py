"""The report to the letter: what a terminal, a CI server and a page are given."""

from __future__ import annotations

import json
import re
from html import unescape
from xml.etree import ElementTree

import pytest

from jaxlstm.check import Item, Report
from jaxlstm.check.picture import picture
from jaxlstm.check.report import Picture, number

GOOD = Item("shape", True, detail="2 cases")
BAD = Item("semantics", False, 0.25, 1e-14, "worst: <a>", {"at": (1, 2)})
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
Again:
  verify(port)"""


def test_the_whole_text():
    assert str(REPORT) == TEXT
    assert str(Report("r", (GOOD,))) == (
        "r: HOLDS (1 ok)\n\nstatus  item   measured  limit  detail\nok      shape                   2 cases"
    )


def test_the_first_screen_has_five_failures_at_most():
    table = "status  item       measured    limit  detail\nFAILED  semantics      0.25  1.0e-14  worst: <a>"
    assert REPORT.first_screen() == TEXT.partition("\n\n")[0] + "\n" + table
    five, six = Report("r", (BAD,) * 5), Report("r", (BAD,) * 6)
    assert len(five.first_screen().splitlines()) == 1 + 1 + 5
    assert "more" not in five.first_screen()
    assert six.first_screen().endswith("\n... and 1 more, in str(report)")
    untested = Report("r", (UNTESTED,)).first_screen()  # no failure: what there is
    assert untested.splitlines()[2] == "untested  lengths                   takes none"


def test_failures_are_those_and_no_others():
    assert REPORT.failures == (BAD,)
    assert REPORT.to_dict()["items"][1] == {
        "name": "semantics",
        "status": "FAILED",
        "measured": 0.25,
        "limit": 1e-14,
        "detail": "worst: <a>",
        "data": {"at": (1, 2)},
    }
    told = REPORT.to_dict()
    del told["items"]
    assert told == {
        "schema": 1,
        "ok": False,
        "title": "my port",
        "diagnosis": ["the gates are i,f,o,g", "or not"],
        "notes": ["no torch"],
        "settings": {"seed": 3},
        "environment": {"jax": "1.2"},
        "again": "verify(port)",
    }
    assert REPORT.to_json().splitlines()[1] == '  "schema": 1,'
    assert json.loads(REPORT.to_json())["items"][1]["measured"] == 0.25


@pytest.mark.parametrize(
    ("value", "told"),
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
def test_numbers_are_short(value, told):
    assert number(value) == told


def test_every_item_of_the_xml():
    suite = ElementTree.fromstring(REPORT.to_junit())
    assert suite.tag == "testsuite"
    assert suite.attrib == {
        "name": "my port",
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    assert [case.tag for case in suite] == ["testcase"] * 3
    assert [case.attrib for case in suite] == [
        {"classname": "my port", "name": name} for name in ("shape", "semantics", "lengths")
    ]
    _, bad, untested = suite
    assert bad[0].tag == "failure"
    assert bad[0].attrib == {"message": "measured 0.25, limit 1.0e-14; worst: <a>"}
    assert bad[0].text == "the gates are i,f,o,g\nor not"
    assert untested[0].attrib == {"message": "takes none"}
    unmeasured = Report("r", (Item("runs", False, detail="cannot"),)).to_junit()
    assert ElementTree.fromstring(unmeasured)[0][0].attrib == {"message": "cannot"}
    assert unmeasured.startswith("<?xml version=")
    assert "\n  <testcase" in unmeasured


def shown(page: str) -> list[str]:
    """What a reader sees of a page, piece by piece."""
    text = unescape(re.sub(r"\s*<[^>]*>\s*", "|", page.partition("<body>")[2]))
    return [part for part in text.split("|") if part.strip()]


def test_every_part_of_the_page():
    page = REPORT.to_html()
    assert shown(page) == [
        "my port",
        "my port: DOES NOT HOLD (1 ok, 1 failed, 1 untested)",
        *("Diagnosis", "the gates are i,f,o,g", "or not"),
        *("Items", "Status", "Item", "Measured", "Limit", "Detail"),
        *("FAILED", "semantics", "0.25", "1.0e-14", "worst: <a>"),
        *("ok", "shape", "2 cases"),
        *("untested", "lengths", "takes none"),
        *("Notes", "no torch", "Settings", "seed", "3", "Environment", "jax", "1.2"),
        *("Again", "verify(port)"),
    ]
    assert '<p class="verdict failed">' in page
    assert '<main class="fails">' in page
    assert '<main class="holds">' in Report("r", (GOOD,)).to_html()
    assert '<p class="verdict ok">' in Report("r", (GOOD,)).to_html()
    assert re.findall(r'<td class="s (\w+)">', page) == ["failed", "ok", "untested"]
    bare = Report("r", (GOOD,)).to_html()
    assert re.findall("<h2>(.*?)</h2>", bare) == ["Items"]
    head = ("Items", "Status", "Item", "Measured", "Limit", "Detail")
    assert shown(bare) == ["r", "r: HOLDS (1 ok)", *head, "ok", "shape", "2 cases"]


def test_a_picture_to_scale():
    drawn = picture(Picture("e < 1", "time", "unit", [[0.0, 1e-3, 1.0], [1e-7, 1e-6, 1e-2]]))
    figure = ElementTree.fromstring(drawn)
    caption, svg = figure
    told = "e < 1 (strongest: 1, over 6 orders of magnitude)"
    assert caption.text == svg.attrib["aria-label"] == told
    assert svg.attrib["viewBox"] == "0 0 58 50"
    assert svg.attrib["style"] == "min-width:58px;max-width:116px"
    *cells, frame, x, y = svg
    assert [[c.attrib[k] for k in ("x", "y", "fill-opacity")] for c in cells] == [
        ["36", "0", "0.50"],
        ["46", "0", "1.00"],
        ["46", "10", "0.67"],
    ]
    assert {c.attrib["width"] + c.attrib["height"] for c in cells} == {"1010"}
    assert [frame.attrib[k] for k in ("x", "y", "width", "height")] == ["26", "0", "30", "20"]
    assert (x.text, x.attrib["y"], y.text) == ("time 0 to 2", "38", "unit")
    assert y.attrib["transform"] == "translate(16 20) rotate(-90)"


def test_a_picture_of_numbers_that_are_none():
    """NaN and infinity are as strong as can be; beside infinity, 1 is the scale."""
    drawn = picture(Picture("e", "x", "y", [[float("inf"), float("nan"), 1e-3, 0.0, -1.0]]))
    assert re.findall(r'fill-opacity="([\d.]+)"', drawn) == ["1.00", "1.00", "0.50"]
    assert re.findall(r'fill-opacity="', picture(Picture("e", "x", "y", [[0.0, 0.0]]))) == []
    assert picture(Picture("e", "x", "y", [[], []])) == ""


def test_a_large_picture_is_thinned_both_ways_and_keeps_its_largest():
    rows = [[0.0] * 97 for _ in range(193)]
    rows[192][96] = 1.0
    drawn = picture(Picture("e", "time", "unit", rows))
    assert re.findall(r'<rect x="(\d+)" y="(\d+)" width="10"', drawn) == [("506", "640")]
    assert 'viewBox="0 0 518 680"' in drawn  # 49 columns, 65 rows
    exact = picture(Picture("e", "time", "unit", [[1.0] * 96]))
    assert exact.count('fill="var(--heat)"') == 96
