"""The diagnosis of a failed verification, line by line, the most likely explanation first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.diagnosis.explain import explain
from jaxlstm.check.diagnosis.gradients import explain_gradients
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.cases import ordinary_case
from jaxlstm.check.reference.results import Evidence
from jaxlstm.check.report.difference import StepDifference
from jaxlstm.check.verification import Verification

Array = np.ndarray

SINGLE = 16 * float(np.finfo(np.float32).eps)
"""Relative error that float32 arithmetic leaves in float64 results; XLA's functions are off by some ulps."""


def diagnose(
    verification: Verification, failed: set[str], difference: StepDifference | None, seconds: float
) -> Iterator[str]:
    """Yield explanations of the failed items. ``seconds`` is the time for pairs of faults."""
    if "repeatable" in failed:
        yield "a second call with the same arguments returns different values: the port keeps state"
    if "runs" in failed:
        yield from _explain_axes(verification)
    wrong_values = any(name.startswith(("float64 semantics", "shape")) for name in failed)
    imprecise = "within the tolerance" in failed or any(
        name.startswith(("RMS error of results", "step")) for name in failed
    )
    if wrong_values or (imprecise and not verification.evidence["float64"]):
        yield from _explain_values(verification, difference, seconds)
    elif imprecise:
        yield from _explain_precision(verification)
    elif any("gradients" in name for name in failed):
        yield from _explain_gradients(verification)
    if "NaN mask" in failed and not wrong_values:
        yield from _explain_nan(verification)


def _explain_values(
    verification: Verification, difference: StepDifference | None, seconds: float
) -> Iterator[str]:
    evidence = verification.evidence["float64"] or verification.evidence["working"]
    if not evidence:  # The port raised in every case, which the item "runs" reports.
        return
    if _casts_to_float32(verification):
        yield "float64 inputs are cast to float32: the results equal those for float32 inputs"
        return
    single = _float32_error(verification)
    explanations = explain(evidence, verification.config, seconds=seconds if single is None else 0)
    yield from map(str, explanations)
    if not explanations and single is not None:
        yield (
            f"the float64 results have an error of {format_number(single)}, as in float32: a part of the "
            "computation is in float32, or one of its numbers is rounded to float32"
        )
    elif not explanations:
        yield (
            "no known fault explains the results; pairs of faults were tried for up to "
            f"{seconds:g} s (argument seconds)"
        )
    if difference is not None:
        yield str(difference.place)


def _explain_precision(verification: Verification) -> Iterator[str]:
    """Explain a port that is right in float64 and imprecise in the working dtype."""
    explanations = explain(verification.evidence["working"], verification.config, seconds=0, rounding=True)
    yield from map(str, explanations)
    if not explanations:
        yield "the equations are right; no known fault of precision explains the loss of accuracy"


def _explain_gradients(verification: Verification) -> Iterator[str]:
    for case, params, results in (*verification.evidence["float64"], *verification.evidence["working"]):
        if results.gradients:
            lines = explain_gradients(results.gradients, params, verification.config, case)
            if lines:
                yield from lines
                return
    yield "the gradients are right to rounding, but less precise than in correct implementations"


def _explain_axes(verification: Verification) -> Iterator[str]:
    """Test if a port that raised expects the batch axis first."""
    case = ordinary_case(verification.config, verification.seed)
    truth = verification.truth(verification.params, case, gradients=False).outputs
    batch_first = replace(case, inputs=case.inputs.swapaxes(0, 1))
    try:
        results = verification.port.run(
            verification.params, batch_first, verification.dtype, precision=verification.precision
        )
    except PORT_EXCEPTIONS:
        return
    outputs = np.asarray(results.outputs, np.float64).swapaxes(0, 1)
    if outputs.shape == truth.shape and np.allclose(outputs, truth, atol=1e-2):
        yield "the port is batch-first: it matches if its inputs are (batch, time, feature)"


def _explain_nan(verification: Verification) -> Iterator[str]:
    """Name the rows in which NaN appears without a reason, and the reason."""
    if verification.nan is None:
        return
    case, ours, truth = verification.nan
    spread, swallowed = set(), set()
    for (_, a), (_, b) in zip(ours.leaves(), truth.leaves(), strict=True):
        a_finite, b_finite = np.isfinite(a.astype(np.float64)), np.isfinite(b.astype(np.float64))
        spread |= _rows(~a_finite & b_finite)
        swallowed |= _rows(a_finite & ~b_finite)
    nan_in_padding = ~case.valid & np.isnan(case.inputs).any(-1)
    if spread and spread <= set(np.flatnonzero(nan_in_padding.any(0)).tolist()):
        yield (
            "the padding reaches the results: it is multiplied by zero instead of being masked, and NaN "
            "times zero is NaN"
        )
    elif spread:
        yield f"NaN spreads to rows {sorted(spread)}, whose inputs are finite: rows of the batch are mixed"
    elif swallowed:
        yield "NaN or infinity in the inputs does not reach the results"


def _rows(mask: Array) -> set[int]:
    """Return the rows of the batch, the middle axis, in which the mask is true anywhere."""
    return set(np.flatnonzero(mask.any(axis=(0, 2))).tolist())


def _casts_to_float32(verification: Verification) -> bool:
    """Return True if the results for float64 inputs equal those for the same inputs in float32."""
    if verification.dtype != np.float32 or not verification.evidence["float64"]:
        return False
    single = {e.case.name: e.results for e in verification.evidence["working"]}
    pairs = [(e.results, single.get(e.case.name)) for e in verification.evidence["float64"]]
    return all(
        b is not None and np.allclose(a.outputs, b.outputs.astype(np.float64), rtol=1e-12, atol=0)
        for a, b in pairs
    )


@np.errstate(invalid="ignore")  # Infinity minus infinity.
def _float32_error(verification: Verification) -> float | None:
    """Return the error of the float64 results if float32 rounding explains it, else None."""

    def errors(entry: Evidence) -> Iterator[float]:
        truth = dict(verification.truth(entry.params, entry.case, gradients=False).leaves())
        for name, a in entry.results.leaves():
            if a.shape != truth[name].shape:
                yield np.inf
            else:
                scale = np.maximum(np.abs(truth[name]), 1)
                yield float(np.max(np.abs(a - truth[name]) / scale, initial=0.0))

    found = [error for entry in verification.evidence["float64"] for error in errors(entry)]
    worst = float(np.max(found, initial=0.0))  # NaN if any error is NaN.
    return worst if found and worst <= SINGLE else None
