"""Outcomes become report items: the reported case and the machine-readable data."""

from __future__ import annotations

import pytest

from jaxlstm.check.criteria.accuracy import mean_ratio, worst_ratio
from jaxlstm.check.criteria.criterion import Criterion, Findings, Measurement, Outcome, RmsRatio, Untested

RUNS = Criterion("runs", "exact", "it runs", lambda trial: ())
STEPS = Criterion("steps", "semantic", "each step", lambda trial: ())


def item_of(criterion, *outcomes):
    """Return the item after the outcomes (case, value)."""
    found = Findings()
    for case, value in outcomes:
        found.add(criterion, case, Outcome(value))
    (item,) = found.items()
    assert found.failed == (item.ok is False)
    return item


FAR, NEAR = Measurement(20.0, 10.0, "far"), Measurement(11.0, 10.0, "near")
HALF, ALMOST = Measurement(5.0, 10.0, "there"), Measurement(0.9, 1.0, "here")


@pytest.mark.parametrize(
    ("outcomes", "ok", "detail"),
    [
        ([("a", "")], True, ""),
        ([("a", ""), ("b", "")], True, "2 cases"),
        ([("a", ""), ("b", "cannot")], False, "b: cannot; fails in b"),
        (
            [("a", ""), ("b", "cannot"), ("b", "will not"), ("c", "is late")],
            False,
            "b: cannot, and 1 more; fails in b, c",
        ),
        ([("a", "cannot"), ("b", "cannot"), ("c", "cannot")], False, "a: cannot; fails in all 3 cases"),
        # The name of an only case is not repeated.
        ([("", "cannot")], False, "cannot"),
        ([("", FAR)], False, "worst: far"),
        ([("", Untested("no state"))], None, "no state"),
        # The case nearest its limit, which need not have the largest number.
        ([("a", HALF), ("b", ALMOST)], True, "worst: b, here"),
        ([("a", HALF), ("c", FAR), ("d", NEAR)], False, "worst: c, far; fails in c, d"),
        # Two cases of one name.
        ([("a", NEAR), ("a", FAR), ("a", NEAR)], False, "worst: a, far; fails in a"),
        ([("a", FAR), ("b", FAR), ("c", FAR)], False, "worst: a, far; fails in all 3 cases"),
    ],
)
def test_item_of_outcomes(outcomes, ok, detail):
    item = item_of(RUNS, *outcomes)
    assert (item.id, item.kind, item.name, item.ok, item.detail) == ("runs", "exact", "it runs", ok, detail)


def test_data_of_an_item():
    item = item_of(RUNS, ("a", ""), ("b", "cannot"), ("b", "will not"))
    assert item.measured is item.limit is None
    assert item.data == {"cases": {"a": [], "b": ["cannot", "will not"]}}
    item = item_of(STEPS, ("a", HALF), ("b", ALMOST))
    assert (item.measured, item.limit) == (0.9, 1.0)
    assert item.data["cases"]["a"] == {"value": 5.0, "limit": 10.0, "where": "there"}


def test_references_have_an_item_each():
    found = Findings()
    for against in ("", "torch"):
        found.add(STEPS, "a", Outcome(NEAR, against))
    assert [(item.id, item.name) for item in found.items()] == [
        ("steps", "each step"),
        ("steps-torch", "each step against torch"),
    ]


def test_rms_errors_are_totalled():
    found = Findings()
    mean, worst = (
        Criterion(id_, "precision", "RMS", lambda trial: (), total=total)
        for id_, total in (("rms", mean_ratio), ("rms-worst", worst_ratio))
    )
    for where, ours in (("a", 2.0), ("b", 40.0)):
        for criterion in (mean, worst):
            found.add(criterion, where, Outcome(RmsRatio(where, 600, ours, 1.0, 1.0)))
    together, single = found.items()
    assert (together.ok, together.limit) == (False, 2.0)
    assert together.measured == pytest.approx(80**0.5)
    assert together.data["arrays"]["b"] == {
        "where": "b",
        "size": 600,
        "ours": 40.0,
        "torch": 1.0,
        "own": 1.0,
        "in_mean": True,
        "ratio": 40.0,
    }
    assert (single.ok, single.measured, single.limit) == (False, 40.0, 16.0)
    assert single.detail.startswith("b: ")
    assert single.data["arrays"] == {}
