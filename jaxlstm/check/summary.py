"""The parts of a report that follow from a finished verification: untested items, notes, heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np

from jaxlstm.check.port import default_device, lacks_float64
from jaxlstm.check.report.data import Heatmap, Item
from jaxlstm.check.verification import Verification

HEATMAP_CASES = ("ragged", "long")


def untested(verification: Verification) -> Iterator[Item]:
    """Yield an item for each property that the port does not allow to test."""
    port = verification.port
    if not port.takes_lengths:
        yield Item("ragged lengths", None, detail="the port takes no seq_lengths")
    if not port.takes_state:
        detail = "the port takes no initial_state; large cell states are untested too, such as a clipped c"
        yield Item("initial state", None, detail=detail)
    if verification.not_differentiable:
        yield Item("gradients", None, detail=verification.not_differentiable)
    elif verification.gradients and not port.takes_params:
        detail = "the port holds its own weights; give it an argument named params"
        yield Item("gradients of parameters", None, detail=detail)
    if verification.float64_refusal:
        yield Item("float64 semantics", None, detail=verification.float64_refusal)


def notes(verification: Verification, against: Sequence[str]) -> Iterator[str]:
    """Yield the facts that limit the verdict."""
    if "torch" in against and "torch" not in verification.references:
        yield "torch is not installed; the only reference is the oracle"
    if bad := [name for name, a in verification.params.items() if not np.isfinite(a).all()]:
        yield (
            f"parameters with NaN or infinity: {', '.join(bad)}; the port must return NaN and infinity "
            "where the references do"
        )
    if lacks_float64(default_device()):
        yield "the float64 runs were on the CPU, because this device emulates float64"
    for case, amplification in verification.chaotic.items():
        yield (
            f"{case}: one ulp grows {amplification:.0e} times with these weights, so its RMS errors are a "
            "matter of chance and were not compared; the step residual covers its steps"
        )
    if verification.tolerance is not None:
        rtol, atol = verification.tolerance
        yield f"tolerances set by the caller: rtol={rtol:g}, atol={atol:g}"


def heatmaps(verification: Verification) -> Iterator[Heatmap]:
    """Yield the error of the outputs over time and units, of a ragged and of a long case."""
    config = verification.config
    for case, params, results in verification.evidence["working"]:
        if case.name not in HEATMAP_CASES:
            continue
        truth = verification.truth(params, case, False).outputs
        if results.outputs.shape != truth.shape:
            continue
        error = np.abs(results.outputs.astype(np.float64) - truth).max(axis=1)
        title = f"{case.name}: largest error of the outputs over the batch"
        if config.bidirectional:
            title += f"; units from {config.h_size} on are the reverse direction"
        rounding = float(ml_dtypes.finfo(verification.dtype).eps)
        yield Heatmap(title, "time", "unit", error.T.tolist(), floor=rounding / 10)
