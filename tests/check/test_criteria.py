"""Criteria on numbers worked out by hand, and the report items that their outcomes become."""

import itertools

import numpy as np
import pytest

from jaxlstm.check.cases.case import Results
from jaxlstm.check.criteria import accuracy
from jaxlstm.check.criteria.accuracy import mean_ratio, worst_ratio
from jaxlstm.check.criteria.criterion import Criterion, Findings, Measurement, Outcome, RmsRatio, Untested

NAN, INF = float("nan"), float("inf")


def results(outputs, h_n=None, c_n=None, gradients=None, dtype=np.float64):
    named = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
    return Results({name: np.array(a, dtype) for name, a in named.items() if a is not None}, gradients)


def test_measurement_and_its_limit():
    assert Measurement(2.0, 2.0, "").ok
    assert not Measurement(2.1, 2.0, "").ok
    assert not Measurement(NAN, 2.0, "").ok
    assert Measurement(3.0, 2.0, "").excess == 1.5
    assert Measurement(3.0, 0.0, "").excess == INF


def test_masks_distinguish_nan_and_infinities():
    kinds = [0.0, NAN, INF, -INF]
    for actual, expected in itertools.product(kinds, kinds):
        result = accuracy.nan_mask(results([1.0, actual]), results([2.0, expected]))
        differ = f"1 of 2 elements differ, the first at (1,): {actual}, expected {expected}"
        assert result == ("" if actual is expected else f"outputs: {differ}")
    result = accuracy.nan_mask(results([NAN, NAN], [1.0], [INF]), results([1.0, 1.0], [1.0], [1.0]))
    assert result == (
        "outputs: 2 of 2 elements differ, the first at (0,): nan, expected 1.0; "
        "c_n: 1 of 1 elements differ, the first at (0,): inf, expected 1.0"
    )


def test_a_second_call_repeats_the_first():
    first = results([1.0, NAN], [2.0], [3.0], {"inputs": np.ones(2)})
    assert accuracy.repeatability(first, first) == ""
    other = results([1.0, NAN], [2.5], [3.0], {"inputs": np.zeros(2)})
    assert accuracy.repeatability(first, other) == "a second call returned different values of h_n, d inputs"


def test_numbers_that_xla_flushes_to_zero():
    zero, truth = np.zeros(2, np.float32), np.array([1e-42, 0.0])
    assert accuracy.rms_ratio("", zero, truth, [truth.astype(np.float32)], None).value == 1
    assert accuracy.rms_ratio("", zero, truth * 1e6, [(truth * 1e6).astype(np.float32)], None).value > 16


def test_semantics_allow_amplified_rounding():
    truth = results([1.0, 2.0], [INF])
    at = {"outputs": 0.0, "h_n": 0.0}
    found = accuracy.result_semantics(results([1.0, 2.0 + 2e-14], [INF]), truth, at)
    assert found.value == pytest.approx(2e-14, 0.03)
    assert (found.limit, found.where) == (1e-14, "outputs[1]")
    assert not found.ok
    at["outputs"] = 1e-15
    assert accuracy.result_semantics(results([1.0, 2.0 + 2e-14], [INF]), truth, at).limit == 32e-15
    missing = accuracy.result_semantics(results([NAN, 2.0], [0.0]), truth, at)
    assert (missing.value, missing.where) == (INF, "outputs[0]")
    assert accuracy.result_semantics(results([]), results([]), at) == (0.0, 32e-15, "outputs")
    # The reported element is the nearest to its own limit, not the largest.
    wide = {"outputs": 1.0, "h_n": 0.0}
    found = accuracy.result_semantics(results([1.5], [1e-14]), results([1.0], [0.0]), wide)
    assert found == (1e-14, 1e-14, "h_n[0]")


def test_gradients_are_relative_to_their_largest_element():
    truth = {"w": np.array([1.0, -8.0]), "b": np.array([0.0])}
    at = {"d w": 0.0, "d b": 0.0}
    ours = {"w": np.array([1.0, -8.0 - 8e-12]), "b": np.array([0.0])}
    found = accuracy.gradient_semantics(ours, truth, at)
    assert found.value == pytest.approx(1e-12, rel=1e-3)
    assert found.limit == 1e-12
    assert found.where == "d w[1]"
    at["d w"] = 1.0
    # 32 units of 1/8.
    assert accuracy.gradient_semantics(ours, truth, at).limit == 4.0
    # Where all are zero, the limit is absolute.
    ours["b"] = np.array([1e-3])
    assert accuracy.gradient_semantics(ours, truth, at) == (1e-3, 1e-12, "d b[0]")


def test_a_ratio_of_rms_errors():
    assert RmsRatio("", 1, 3.0, None, 2.0).value == 1.5
    assert RmsRatio("", 1, 3.0, None, 0.0).value == INF
    assert RmsRatio("", 1, 0.0, None, 0.0).value == 1.0
    truth = np.array([1.0, 1.0, 1.0, INF])
    found = accuracy.rms_ratio(
        "here",
        np.array([1.0, 1.0, 1.5, 7.0], np.float32),
        truth,
        [np.array([1.25, 1.0, 1.0, 0.0])],
        np.array([1.0, 1.75, 1.0, 0.0]),
    )
    assert found.where == "here"
    assert found.size == 3
    assert found.ours == pytest.approx(0.5 / 3**0.5)
    assert found.torch == pytest.approx(0.75 / 3**0.5)
    # The largest error among the reference implementations.
    assert found.own == found.torch
    without_torch = accuracy.rms_ratio("", truth.astype(np.float32), truth / 3, [], None)
    assert without_torch.torch is None
    # Only the rounding to float32.
    assert 0 < without_torch.own < 1e-7
    overflow = accuracy.rms_ratio("", np.array([NAN, 2.0]), np.array([1, 2.5]), [np.array([NAN, 2.25])], None)
    assert (overflow.size, overflow.ours, overflow.own) == (1, 0.5, 0.25)
    nothing = accuracy.rms_ratio("", np.ones(1), np.array([INF]), [], None)
    assert (nothing.size, nothing.ours, nothing.value) == (0, 0.0, 1.0)


def test_rms_of_many_arrays():
    ratios = [RmsRatio("a", 600, 2.0, 4.0, 1.0), RmsRatio("b", 400, 8.0, 4.0, 1.0)]
    found = accuracy.mean_ratio(ratios)
    assert found.value == pytest.approx(4.0)
    assert found.limit == 2.0
    assert found.where == "1000 elements in 2 arrays; 1 times the error of torch"
    few = accuracy.mean_ratio([RmsRatio("a", 999, 2.0, None, 1.0)])
    assert (few.limit, few.where) == (4.0, "999 elements in 1 arrays")
    # A zero must not reach the logarithm.
    assert accuracy.mean_ratio([RmsRatio("a", 1, 0.0, 1.0, 1.0)]).value == pytest.approx(1e-3)
    better = accuracy.mean_ratio([RmsRatio("a", 1, 0.0, 2.0, 1.0)])
    assert better.where.endswith("0.0005 times the error of torch")


def test_rms_of_large_cell_states():
    """They are left out of the mean unless there is nothing else."""
    large = RmsRatio("large c", 600, 1e-3, None, 1.0, in_mean=False)
    ordinary = RmsRatio("a", 1000, 3.0, None, 1.0)
    assert accuracy.mean_ratio([large, ordinary]).value == pytest.approx(3.0)
    assert accuracy.mean_ratio([large]).value == pytest.approx(1e-3)


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


def test_rms_errors_are_totalled():
    found = Findings()
    mean, worst = (
        Criterion("rms", "precision", "RMS", lambda trial: (), total=total, lists_ratios=total is mean_ratio)
        for total in (mean_ratio, worst_ratio)
    )
    for where, ours in (("a", 2.0), ("b", 40.0)):
        for criterion in (mean, worst):
            found.add(criterion, where, Outcome(RmsRatio(where, 600, ours, 1.0, 1.0)))
    together, single = found.items()
    assert (together.ok, together.limit) == (False, 2.0)
    assert together.measured == pytest.approx(80**0.5)
    ratio = {"where": "b", "size": 600, "ours": 40.0, "torch": 1.0, "own": 1.0, "in_mean": True}
    assert together.data["arrays"]["b"] == {**ratio, "ratio": 40.0}
    assert (single.ok, single.measured, single.limit) == (False, 40.0, 16.0)
    assert single.detail.startswith("b: ")
    assert single.data["arrays"] == {}
