"""The diagnosis of a verification that failed: what explains it, in words, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jaxlstm.check.explain import Evidence, explain
from jaxlstm.check.gradients import explain_gradients
from jaxlstm.check.inputs import Case, ordinary_case
from jaxlstm.check.raised import RAISED
from jaxlstm.check.report import number

if TYPE_CHECKING:
    from jaxlstm.check.run import Run

Array = np.ndarray

SINGLE = 16 * float(np.finfo(np.float32).eps)
"""Relative error that float32 somewhere inside may leave in float64: XLA's functions are off by some ulps."""


def diagnose(run: Run, failed: set[str], seconds: float) -> Iterator[str]:
    """Lines that say why some items failed.

    Args:
      run: a verification, with its evidence.
      failed: the names of the items that failed.
      seconds: for pairs of faults.
    """
    if "repeatable" in failed:
        yield "the same call is answered differently the second time: state is kept between calls"
    if "runs" in failed:
        yield from _axes(run)
    values = {name for name in failed if name.startswith(("float64 semantics", "shape"))}
    precision = {name for name in failed if name.startswith(("RMS error of results", "step"))}
    precision |= failed & {"within the tolerance"}
    if values or (precision and not run.evidence["float64"]):
        yield from _values(run, seconds)
    elif precision:
        yield from _precision(run)
    elif any("gradients" in name for name in failed):
        yield from _gradients(run)
    if "NaN mask" in failed and not values:
        yield from _masks(run)


def _values(run: Run, seconds: float) -> Iterator[str]:
    evidence = run.evidence["float64"] or run.evidence["working"]
    if not evidence:  # it raised in every case, which the item "runs" tells
        return
    if _is_single_inside(run):
        yield "float64 inputs are computed in float32: the answer is that to the rounded inputs"
        return
    error = _error_of_single(run)
    found = explain(evidence, run.config, seconds=seconds if error is None else 0)
    yield from map(str, found)
    if not found and error is not None:
        yield (
            f"agrees in float64 to {number(error)}, as float32 would: a part of it is computed in "
            "float32, or a number in it is rounded to float32"
        )
    elif not found:
        yield f"no fault of the catalogue, and no pair of faults within {seconds:g} s, explains it"
    if run.difference is not None:
        yield str(run.difference.place)


def _precision(run: Run) -> Iterator[str]:
    """Semantics hold in float64, and the working dtype loses more than it should."""
    found = explain(run.evidence["working"], run.config, seconds=0, rounding=True)
    yield from map(str, found)
    if not found:
        yield "no fault of precision in the catalogue explains it"


def _gradients(run: Run) -> Iterator[str]:
    for evidence in (*run.evidence["float64"], *run.evidence["working"]):
        if evidence.answer.gradients:
            found = explain_gradients(
                evidence.answer.gradients, evidence.params, run.config, evidence.case
            )
            if found:
                yield from found
                return
    yield "the gradients are right to rounding, and less precise than they should be"


def _is_single_inside(run: Run) -> bool:
    """Whether a port's float64 answers are what it gives to the same numbers in float32."""
    if run.dtype != np.float32 or not run.evidence["float64"]:
        return False
    single = {e.case.name: e.answer for e in run.evidence["working"]}
    pairs = [(e.answer, single.get(e.case.name)) for e in run.evidence["float64"]]
    return all(
        b is not None and np.allclose(a.outputs, b.outputs.astype(np.float64), rtol=1e-12, atol=0)
        for a, b in pairs
    )


@np.errstate(invalid="ignore")  # of two infinities there is no difference
def _error_of_single(run: Run) -> float | None:
    """How far float64 answers are from the truth, if that is what rounding to float32 somewhere does."""

    def errors(entry: Evidence) -> Iterator[float]:
        truth = dict(run.truth(entry.params, entry.case, gradients=False).leaves())
        for name, a in entry.answer.leaves():
            if a.shape != truth[name].shape:
                yield np.inf
            else:
                scale = np.maximum(np.abs(truth[name]), 1)
                yield float(np.max(np.abs(a - truth[name]) / scale, initial=0.0))

    found = [error for entry in run.evidence["float64"] for error in errors(entry)]
    worst = float(np.max(found, initial=0.0))  # NaN if any is
    return worst if found and worst <= SINGLE else None


def _axes(run: Run) -> Iterator[str]:
    """A port that raised on a batch that is not square may want the batch first."""
    case = ordinary_case(run.config, run.seed)
    truth = run.truth(run.params, case, gradients=False).outputs
    swapped = Case(
        case.name,
        case.inputs.swapaxes(0, 1),
        case.initial_state,
        case.seq_lengths,
        case.cotangents,
    )
    try:
        answer = run.port.run(run.params, swapped, run.dtype, precision=run.precision)
    except RAISED:
        return
    outputs = np.asarray(answer.outputs, np.float64).swapaxes(0, 1)
    if outputs.shape == truth.shape and np.allclose(outputs, truth, atol=1e-2):
        yield "agrees if it is given (batch, time, feature) arrays: the port is batch-first"


def _masks(run: Run) -> Iterator[str]:
    """Which rows are NaN that should not be, and why."""
    if run.nan is None:
        return
    case, ours, truth = run.nan
    spread, swallowed = set(), set()
    for (_, a), (_, b) in zip(ours.leaves(), truth.leaves(), strict=True):
        a_is, b_is = np.isfinite(a.astype(np.float64)), np.isfinite(b.astype(np.float64))
        spread |= _rows(~a_is & b_is)
        swallowed |= _rows(a_is & ~b_is)
    padded = ~case.valid & np.isnan(case.inputs).any(-1)
    if spread and spread <= set(np.flatnonzero(padded.any(0)).tolist()):
        yield (
            "what stands behind a sequence's end reaches the results: it is multiplied by zero, "
            "not left out"
        )
    elif spread:
        yield f"rows {sorted(spread)} are clean and become NaN: rows of a batch are mixed"
    elif swallowed:
        yield "NaN or infinity in the inputs does not reach the results"


def _rows(mask: Array) -> set[int]:
    """The rows of the batch, the middle axis, in which anything is marked."""
    return set(np.flatnonzero(mask.any(axis=(0, 2))).tolist())
