"""Outcomes become report items: the reported case and the machine-readable data."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check.cases.results import Results
from jaxlstm.check.criteria.criterion import Criterion, Measurement, Outcome, RmsRatio, Untested
from jaxlstm.check.criteria.findings import Findings
from jaxlstm.check.criteria.rms import mean_ratio, worst_ratio

RUNS = Criterion("runs", "exact", "it runs", lambda trial: ())
STEPS = Criterion("steps", "semantic", "each step", lambda trial: ())


def add(found, criterion, case, value, against=""):
    found.add(criterion, case, Outcome(value, against))


def test_an_exact_criterion():
    found = Findings()
    add(found, RUNS, "a", "")
    [item] = found.items()
    assert (item.id, item.kind, item.name, item.ok, item.detail) == ("runs", "exact", "it runs", True, "")
    assert not found.failed
    add(found, RUNS, "b", "")
    assert [item.detail for item in found.items()] == ["2 cases"]
    add(found, RUNS, "b", "cannot")
    assert [item.detail for item in found.items()] == ["b: cannot; fails in b"]
    for case, problem in (("b", "will not"), ("b", "must not"), ("c", "is late")):
        add(found, RUNS, case, problem)
    [item] = found.items()
    assert item.ok is False
    assert item.measured is item.limit is None
    assert item.detail == "b: cannot, and 2 more; fails in b, c"
    assert item.data == {"cases": {"a": [], "b": ["cannot", "will not", "must not"], "c": ["is late"]}}
    assert found.failed


def test_measured_criterion_reports_the_case_nearest_its_limit():
    found = Findings()
    add(found, STEPS, "a", Measurement(5.0, 10.0, "there"))
    add(found, STEPS, "b", Measurement(0.9, 1.0, "here"))
    [item] = found.items()
    assert (item.name, item.ok, item.measured, item.limit) == ("each step", True, 0.9, 1.0)
    assert item.detail == "worst: b, here"
    assert item.data["cases"]["a"] == {"value": 5.0, "limit": 10.0, "where": "there"}
    add(found, STEPS, "c", Measurement(20.0, 10.0, "far"))
    add(found, STEPS, "d", Measurement(11.0, 10.0, "near"))
    [item] = found.items()
    assert (item.ok, item.measured) == (False, 20.0)
    assert item.detail == "worst: c, far; fails in c, d"
    add(found, STEPS, "a", Measurement(1.0, 2.0, ""), against="torch")
    assert [(item.id, item.name) for item in found.items()] == [
        ("steps", "each step"),
        ("steps-torch", "each step against torch"),
    ]


def test_measurements_of_cases_of_one_name():
    found = Findings()
    for value in (1.0, 20.0, 2.0):
        add(found, STEPS, "a", Measurement(value, 10.0, "there"))
    [item] = found.items()
    assert (item.ok, item.measured) == (False, 20.0)
    assert item.detail == "worst: a, there; fails in a"


def test_failure_in_every_case():
    found = Findings()
    for case in "abc":
        add(found, RUNS, case, "cannot")
        add(found, STEPS, case, Measurement(20.0, 10.0, "there"))
    exact, measured = found.items()
    assert exact.detail == "a: cannot; fails in all 3 cases"
    assert measured.detail == "worst: a, there; fails in all 3 cases"


def test_a_case_without_a_name_is_not_named():
    found = Findings()
    add(found, RUNS, "", "cannot")
    add(found, STEPS, "", Measurement(20.0, 10.0, "there"))
    assert [item.detail for item in found.items()] == ["cannot", "worst: there"]


def test_an_untested_criterion():
    found = Findings()
    add(found, STEPS, "", Untested("no state"))
    [item] = found.items()
    assert (item.ok, item.detail) == (None, "no state")


def test_rms_errors_are_totalled():
    found = Findings()
    mean, worst = (
        Criterion("rms", "precision", "RMS", lambda trial: (), total=total)
        for total in (mean_ratio, worst_ratio)
    )
    for where, ours in (("a", 2.0), ("b", 40.0)):
        for criterion in (mean, worst):
            add(found, criterion, where, RmsRatio(where, 600, ours, 1.0, 1.0))
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


def test_results_by_name_and_in_another_dtype():
    one, two = np.ones((2, 1)), np.full(3, 1 / 3)
    whole = Results.of_lstm(one, two, None, {"w": two, "inputs": one})
    assert list(whole.outputs) == ["outputs", "h_n"]
    everything = whole.arrays()
    assert list(everything) == ["outputs", "h_n", "d w", "d inputs"]
    assert everything["h_n"] is two
    assert everything["d inputs"] is one
    half = whole.astype(np.float16)
    assert {a.dtype for a in half.arrays().values()} == {np.dtype(np.float16)}
    assert half.arrays()["d w"][0] == np.float16(1 / 3)
    single = Results.of_lstm(one, None, two).astype(np.float16)
    assert single.gradients is None
    assert [(name, a.dtype) for name, a in single.outputs.items()] == [("outputs", "f2"), ("c_n", "f2")]
