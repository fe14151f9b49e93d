"""The report: verdict, text, strict JSON, and a self-contained page."""

import json
import math
import re
from html import escape
from xml.etree import ElementTree

import pytest

from jaxlstm._shared.table import format_number
from jaxlstm.check import CheckFailed, Item, Report
from jaxlstm.check.report.item import Divergence, LayerDifference

GOOD = Item("shape", True, detail="2 cases")
BAD = Item("semantics", False, 0.25, 1e-14, "worst: <a>", {"at": (1, 2)}, "float64-results-torch", "semantic")
UNTESTED = Item("lengths", None, detail="takes none")
DIFFERENCE = Divergence(1, "reverse", 4, 2, "c", 1, 0.5, 0.25)
LAYERS = (
    LayerDifference("fc", "fc", "Linear", (2, 3), (2, 3), 0.0, 1e-16, 1e-9),
    LayerDifference("act", "relu", "ReLU", (2, 3), (2, 4), 0.0, math.inf, 1e-9),
)
REPORT = Report(
    "a < b",
    (GOOD, BAD, UNTESTED),
    diagnosis=("the gates are i,f,o,g & more", "or not"),
    notes=("no torch",),
    settings={"seed": 3},
    environment={"jaxlstm": "0.1", "python": "3", "jax": "1.2", "torch": "2.9", "device": "cpu: <x>"},
    again="verify(<p>)",
    difference=DIFFERENCE,
    layers=LAYERS,
)

TEXT = """\
a < b: DOES NOT HOLD (1 ok, 1 failed, 1 untested)
Diagnosis:
  the gates are i,f,o,g & more
  or not
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
    assert REPORT.first_screen() == TEXT.partition("\nLayers")[0] + "\n" + table
    five, six = Report("r", (BAD,) * 5), Report("r", (BAD,) * 6)
    assert len(five.first_screen().splitlines()) == 1 + 1 + 5
    assert "more" not in five.first_screen()
    assert six.first_screen().endswith("\n... and 1 more, in str(report)")
    # Without failures, the untested items.
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
    assert document.pop("items")[1]["data"] == {"at": [1, 2]}
    assert document.pop("difference") == DIFFERENCE._asdict()
    assert [(layer["ours"], layer["outputs"], layer["ok"]) for layer in document.pop("layers")] == [
        ("fc", 1e-16, True),
        ("relu", "inf", False),
    ]
    assert next(iter(document.items())) == ("schema", 2)
    assert document == {
        "schema": 2,
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


def test_page():
    """The page is well-formed, needs no other file, and shows the text below the verdict."""
    page = REPORT.to_html()
    body = ElementTree.fromstring(page[page.index("<body") : page.index("</html>")])
    assert "\n".join(element.text or "" for element in body) == str(REPORT)
    assert f"<title>{escape(REPORT.verdict)}</title>" in page
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
