"""The report: verdict, text, strict JSON and a self-contained page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from jaxlstm.check import CheckFailed, Item, Report
from jaxlstm.check.report.data import Heatmap

GOOD = Item("shape", True)
BAD = Item(
    "semantics", False, float("nan"), 1e-14, "worst: <here>", {"index": (1, 2), "x": float("inf")}
)
UNTESTED = Item("lengths", None, detail="the port takes none")


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


def test_text_is_complete():
    report = Report("r", (GOOD, BAD, UNTESTED), notes=("a note",), environment={"jax": "1.2"})
    text = str(report)
    for part in (
        "shape",
        "semantics",
        "1.0e-14",
        "worst: <here>",
        "untested",
        "a note",
        "jax: 1.2",
    ):
        assert part in text


def test_json_is_strict():
    document = json.loads(Report("r", (GOOD, BAD), settings={"rtol": None}).to_json())
    assert document["schema"] == 1
    assert document["ok"] is False
    assert [item["status"] for item in document["items"]] == ["ok", "FAILED"]
    assert document["items"][1]["measured"] == "nan"
    assert document["items"][1]["data"] == {"index": [1, 2], "x": "inf"}
    assert document["settings"] == {"rtol": None}


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
    assert page.index("DOES NOT HOLD") < page.index("x &amp; y") < page.index("semantics")
    # Failures come first.
    assert page.index("semantics") < page.index(">shape<")
    assert "&lt;here&gt;" in page
    assert "<svg" in page
    assert "verify(&lt;p&gt;)" in page
