"""Findings become report items: the reported case and the machine-readable data."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check.criteria.findings import Findings
from jaxlstm.check.criteria.measurement import Measurement
from jaxlstm.check.criteria.rms import RmsRatio
from jaxlstm.check.reference.results import Results


def test_an_exact_criterion():
    found = Findings()
    found.add_problem("runs", "a", "")
    [item] = found.items()
    assert (item.name, item.ok, item.detail) == ("runs", True, "")
    found.add_problem("runs", "b", "")
    assert [item.detail for item in found.items()] == ["2 cases"]
    found.add_problem("runs", "b", "cannot")
    assert [item.detail for item in found.items()] == ["b: cannot; fails in b"]
    found.add_problem("runs", "b", "will not")
    found.add_problem("runs", "b", "must not")
    found.add_problem("runs", "c", "is late")
    [item] = found.items()
    assert item.ok is False
    assert item.measured is item.limit is None
    assert item.detail == "b: cannot, and 2 more; fails in b, c"
    assert item.data == {"cases": {"a": [], "b": ["cannot", "will not", "must not"], "c": ["is late"]}}


def test_measured_criterion_reports_the_case_nearest_its_limit():
    found = Findings()
    found.add_measurement("steps", "a", Measurement(5.0, 10.0, "there"))
    found.add_measurement("steps", "b", Measurement(0.9, 1.0, "here"))
    [item] = found.items()
    assert (item.name, item.ok, item.measured, item.limit) == ("steps", True, 0.9, 1.0)
    assert item.detail == "worst: b, here"
    assert item.data["cases"]["a"] == {"value": 5.0, "limit": 10.0, "where": "there"}
    found.add_measurement("steps", "c", Measurement(20.0, 10.0, "far"))
    found.add_measurement("steps", "d", Measurement(11.0, 10.0, "near"))
    [item] = found.items()
    assert (item.ok, item.measured) == (False, 20.0)
    assert item.detail == "worst: c, far; fails in c, d"
    found.add_measurement("other", "a", Measurement(1.0, 2.0, ""))
    assert [item.name for item in found.items()] == ["steps", "other"]


def test_failure_in_every_case():
    found = Findings()
    for case in "abc":
        found.add_problem("runs", case, "cannot")
        found.add_measurement("steps", case, Measurement(20.0, 10.0, "there"))
    exact, measured = found.items()
    assert exact.detail == "a: cannot; fails in all 3 cases"
    assert measured.detail == "worst: a, there; fails in all 3 cases"


def test_rms_errors_become_two_items():
    found = Findings()
    for where, ours in (("a", 2.0), ("b", 40.0)):
        found.add_ratio("results", RmsRatio(where, 600, ours, 1.0, 1.0))
    found.add_ratio("gradients", RmsRatio("c", 5, 1.0, None, 1.0))
    together, worst, gradients, _ = found.items()
    assert together.name == "RMS error of results"
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
    assert worst.name == "RMS error of results, worst array"
    assert (worst.ok, worst.measured, worst.limit) == (False, 40.0, 16.0)
    assert worst.detail.startswith("b: ")
    assert worst.data == {}
    assert (gradients.name, gradients.ok, gradients.limit) == ("RMS error of gradients", True, 4.0)


def test_results_by_name_and_in_another_dtype():
    one, two = np.ones((2, 1)), np.full(3, 1 / 3)
    whole = Results(one, two, None, {"w": two, "inputs": one})
    assert [name for name, _ in whole.leaves()] == ["outputs", "h_n"]
    everything = whole.arrays()
    assert list(everything) == ["outputs", "h_n", "d w", "d inputs"]
    assert everything["h_n"] is two
    assert everything["d inputs"] is one
    half = whole.astype(np.float16)
    assert {a.dtype for a in half.arrays().values()} == {np.dtype(np.float16)}
    assert half.c_n is None
    assert half.arrays()["d w"][0] == np.float16(1 / 3)
    assert Results(one, None, two).astype(np.float16).gradients is None
    assert Results(one, None, two).astype(np.float16).h_n is None
    assert Results(one, None, two).astype(np.float16).arrays()["c_n"].dtype == np.float16
